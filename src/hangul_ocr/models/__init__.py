"""The recogniser: rectifier, backbone, sequence model, classifier, decoders."""
