"""Which way to join the members of an ensemble: fitted and judged on out-of-fold readings, nested.

Every way gives each candidate string of a crop a score and takes one string. What it has to learn (which member is the
best, the weights, a temperature) is learnt on some parts and judged on another, so that the accuracy is honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp

from hangul_ocr.evaluation.metrics import accuracy_interval, exact_matches, paired_test
from hangul_ocr.hangul import HangulOcrError, normalise
from hangul_ocr.inference.ensemble import Reading, finite_scores, vote

SINGLE, VOTE, CONFIDENT = "best single member", "plain vote", "maximum confidence"
PROBABILITY, RESCORED, FITTED = "mean probability", "mean log probability", "fitted weights"
#: The simplest first: among equals it is kept.
WAYS = (SINGLE, VOTE, CONFIDENT, PROBABILITY, RESCORED, FITTED)
#: The whole procedure, the choice among the ways included.
CHOSEN = "the choice itself, nested"

#: Pulls fitted weights towards each other: views of one model are nearly collinear.
_RIDGE = 0.01
_LEAST_WEIGHT = 1e-6
#: No reading is surer than this, right or wrong: one sure mistake must not decide a temperature.
_SURE = 1e-6
#: Lower than any score, but finite: a padded place without a string.
_NOWHERE = -1e9


@dataclass(frozen=True)
class Choice:
    """A way to join members and what was learnt for it; ``single`` is the best member's name, weights add up to 1."""

    way: str
    members: list[str]
    single: str
    weights: list[float]
    temperature: float

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can write."""
        return asdict(self)


@dataclass(frozen=True)
class Stack:
    """Readings of N crops by M members as arrays, at most K strings each.

    ``scores`` (N, M, K) in log P with the prior added, ``present`` (N, K), ``own`` (N, M) and ``voted`` (N,) as places
    among the ``strings``.
    """

    strings: list[list[str]]
    scores: np.ndarray
    present: np.ndarray
    own: np.ndarray
    voted: np.ndarray

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Stack:
        """Stack readings, which all have the same members."""
        longest, members = max(len(r.strings) for r in readings), len(readings[0].own)
        scores = np.full((len(readings), members, longest), _NOWHERE)
        present = np.zeros((len(readings), longest), dtype=bool)
        for i, reading in enumerate(readings):
            n = len(reading.strings)
            scores[i, :, :n] = finite_scores(reading.scores) + (0.0 if reading.prior is None else reading.prior)
            present[i, :n] = True
        own = np.array([[r.strings.index(text) for text in r.own] for r in readings])
        voted = np.array([r.strings.index(vote(r)) for r in readings])
        return cls([r.strings for r in readings], scores, present, own, voted)

    def __getitem__(self, rows: np.ndarray) -> Stack:
        """Return the crops ``rows``."""
        strings = [self.strings[i] for i in rows]
        return Stack(strings, self.scores[rows], self.present[rows], self.own[rows], self.voted[rows])

    def places_of(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N,) where each text stands among its crop's strings, -1 where it does not."""
        pairs = zip(self.strings, map(normalise, texts), strict=True)
        return np.array([strings.index(text) if text in strings else -1 for strings, text in pairs])


def fit(way: str, stack: Stack, texts: Sequence[str], members: Sequence[str]) -> Choice:
    """Return what ``way`` learns from crops whose labels are ``texts``."""
    right = stack.places_of(texts)
    accuracy = (stack.own == right[:, None]).mean(axis=0)
    single, count = members[int(accuracy.argmax())], len(members)
    weights = _fitted_weights(stack, right) if way == FITTED else np.full(count, 1 / count)
    choice = Choice(way, list(members), single, [float(w) for w in weights / weights.sum()], 1.0)
    return replace(choice, temperature=_fitted_temperature(choice, stack, right))


def _fitted_weights(stack: Stack, right: np.ndarray) -> np.ndarray:
    """Return weights (M,), none negative, under which the right strings are likeliest where a list holds them."""
    known = right >= 0
    scores, present, places = stack.scores[known], stack.present[known], right[known]
    count = stack.scores.shape[1]
    if not len(places):
        return np.full(count, 1 / count)
    wanted = np.take_along_axis(scores, places[:, None, None], axis=2)[:, :, 0]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        joint = np.where(present, np.einsum("nmk,m->nk", scores, weights), _NOWHERE)
        chances = np.exp(log_softmax(joint, axis=1))
        apart = weights - weights.mean()
        value = (logsumexp(joint, axis=1) - wanted @ weights).mean() + _RIDGE * (apart**2).sum()
        gradient = (np.einsum("nk,nmk->nm", np.where(present, chances, 0), scores) - wanted).mean(axis=0)
        return float(value), gradient + 2 * _RIDGE * apart

    start = np.full(count, 1 / count)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * count).x
    # Members that know nothing of these crops pull every weight to nought, under which all strings are alike.
    return found if found.sum() > _LEAST_WEIGHT else start


def _fitted_temperature(choice: Choice, stack: Stack, right: np.ndarray) -> float:
    """Return the temperature under which the chosen strings' probabilities explain best which of them are right.

    All crops count, those too whose right string (at ``right``, or -1) no member listed: their readings are wrong.
    """
    joint = _joint(choice, stack)
    places = _places(choice, stack, joint)
    correct = places == right

    def loss(logarithm: float) -> float:
        sure = np.clip(_chances(joint, places, stack, np.exp(logarithm)), _SURE, 1 - _SURE)
        return -float(np.log(np.where(correct, sure, 1 - sure)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _chances(joint: np.ndarray, places: np.ndarray, stack: Stack, temperature: float) -> np.ndarray:
    """Return the probability (N,) of the strings at ``places`` among the candidates, by their joint scores (N, K)."""
    logarithms = log_softmax(np.where(stack.present, joint / temperature, _NOWHERE), axis=1)
    return np.exp(logarithms[np.arange(len(places)), places])


def _joint(choice: Choice, stack: Stack) -> np.ndarray:
    """Return the score (N, K) that the way gives each string, before the temperature."""
    if choice.way == SINGLE:
        return stack.scores[:, choice.members.index(choice.single)]
    if choice.way == CONFIDENT:
        return stack.scores.max(axis=1)
    if choice.way == PROBABILITY:
        return logsumexp(stack.scores, axis=1) - np.log(stack.scores.shape[1])
    return np.einsum("nmk,m->nk", stack.scores, np.array(choice.weights))


def _places(choice: Choice, stack: Stack, joint: np.ndarray) -> np.ndarray:
    if choice.way == SINGLE:
        return stack.own[:, choice.members.index(choice.single)]
    if choice.way == VOTE:
        return stack.voted
    if choice.way == CONFIDENT:
        best = np.take_along_axis(stack.scores, stack.own[:, :, None], axis=2)[:, :, 0]
        return stack.own[np.arange(len(best)), best.argmax(axis=1)]
    return np.where(stack.present, joint, _NOWHERE).argmax(axis=1)


def apply(choice: Choice, stack: Stack) -> tuple[list[str], np.ndarray]:
    """Return the chosen strings and their probabilities (N,) among the candidates, at the choice's temperature.

    Raises ``HangulOcrError`` if the stack has other members.
    """
    if stack.scores.shape[1] != len(choice.members):
        raise HangulOcrError(
            f"the choice is for {len(choice.members)} members, the readings are of {stack.scores.shape[1]}; "
            "run `hangul-ocr ensemble` again"
        )
    joint = _joint(choice, stack)
    places = _places(choice, stack, joint)
    chosen = [strings[i] for strings, i in zip(stack.strings, places, strict=True)]
    return chosen, _chances(joint, places, stack, choice.temperature)


@dataclass(frozen=True)
class Judged:
    """The choice kept, and each way's predictions, nested: column by way, and ``CHOSEN`` for the whole procedure.

    ``confidence`` (N,) is that of the whole procedure's predictions.
    """

    choice: Choice
    predictions: pd.DataFrame
    confidence: np.ndarray


def judge(
    stack: Stack,
    texts: Sequence[str],
    parts: Sequence[int],
    members: Sequence[str],
    groups: Sequence[object] | None = None,
) -> Judged:
    """Fit every way on all parts but one, judge it on that one, and keep the way that reads most crops right.

    The choice kept is fitted on everything. ``CHOSEN`` chooses anew inside the other parts, so its accuracy is that of
    the procedure and not of the luckiest way; where that leaves a single part, its ``groups`` (default: its crops) are
    dealt into three. Raises ``HangulOcrError`` with fewer than two parts.
    """
    parts, texts = np.asarray(parts), list(texts)
    dealt = (np.arange(len(texts)) if groups is None else pd.factorize(np.array(groups, dtype=object))[0]) % 3
    if len(np.unique(parts)) < 2:
        raise HangulOcrError("an ensemble is judged across folds, and only one is trained: train another fold")
    nested = _nested(stack, texts, parts, members)
    chosen, confidence = np.empty(len(texts), dtype=object), np.zeros(len(texts))
    for part in np.unique(parts):
        rest, held = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        inner = parts[rest] if len(np.unique(parts)) > 2 else dealt[rest]
        own_texts = [texts[i] for i in rest]
        way = _winner(_nested(stack[rest], own_texts, inner, members), own_texts)
        strings, confidence[held] = _fit_and_apply(way, stack, texts, rest, held, members)
        chosen[held] = strings
    choice = fit(_winner(nested, texts), stack, texts, members)
    return Judged(choice, nested.assign(**{CHOSEN: chosen}), confidence)


def _nested(stack: Stack, texts: list[str], parts: np.ndarray, members: Sequence[str]) -> pd.DataFrame:
    found = pd.DataFrame(index=range(len(texts)), columns=list(WAYS), dtype=object)
    for part in np.unique(parts):
        rest, held = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        for place, way in enumerate(WAYS):
            found.iloc[held, place] = _fit_and_apply(way, stack, texts, rest, held, members)[0]
    return found


def _fit_and_apply(
    way: str, stack: Stack, texts: list[str], rest: np.ndarray, held: np.ndarray, members: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    return apply(fit(way, stack[rest], [texts[i] for i in rest], members), stack[held])


def _winner(nested: pd.DataFrame, texts: list[str]) -> str:
    counts = [int(exact_matches(texts, nested[way].tolist()).sum()) for way in WAYS]
    return WAYS[int(np.argmax(counts))]


def comparison(
    judged: Judged, own: pd.DataFrame, texts: Sequence[str], groups: Sequence[object] | None = None
) -> pd.DataFrame:
    """Return how every member (columns of ``own``) and every way does, against the member that reads most right.

    That member is the best on all crops (``choice.single``). The row ``SINGLE``, which chooses it without the part that
    is judged, is no measure to beat: of members that are about as good it takes the one that is worse on that part.
    Columns: ``name,kind,n,accuracy,low,high`` (95 %, bootstrap over ``groups``), ``gained`` and ``lost`` (crops that it
    alone, or that member alone, has right), ``p_value`` (exact, groups kept whole), ``kept``.
    """
    texts = list(texts)
    base = own[judged.choice.single].tolist()
    rows = [("member", name, own[name].tolist()) for name in own]
    rows += [("ensemble", name, judged.predictions[name].tolist()) for name in judged.predictions]
    return pd.DataFrame([_compared(*row, texts, base, groups, judged.choice.way) for row in rows])


def _compared(
    kind: str,
    name: str,
    predictions: list[str],
    texts: list[str],
    base: list[str],
    groups: Sequence[object] | None,
    kept: str,
) -> dict[str, Any]:
    right = exact_matches(texts, predictions)
    low, high = accuracy_interval(right, groups)
    test = paired_test(texts, base, predictions, groups)
    scores = {"name": name, "kind": kind, "n": len(texts), "accuracy": float(right.mean()), "low": low, "high": high}
    paired = {"gained": test.only_second, "lost": test.only_first, "p_value": test.p_value}
    return scores | paired | {"kept": kind == "ensemble" and name == kept}
