"use strict";
// Labels come from strangers: they reach the page as text nodes alone, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const PAGE = 60;
const state = { view: data.views[0].name, query: "", order: "", pair: "", filters: {}, shown: PAGE, rows: [], open: -1, zoom: 1 };

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const visible = (character) => (/^\s$/.test(character) ? "␣" : character);
const percent = (share) => (share === null ? "" : (100 * share).toFixed(share > 0.999 || share < 0.1 ? 1 : 0) + " %");

function say(row, side) {
  const line = element("span", "say");
  for (const [kind, expected, predicted] of row.ops) {
    const own = side === "e" ? expected : predicted;
    if (kind === "=") line.append(own);
    else line.append(element("span", own ? side : "gap", own ? visible(own) : "·"));
  }
  if (side === "p" && !row.prediction) line.append(element("span", "soft", " nothing"));
  return line;
}

function words(row, into) {
  into.replaceChildren(element("span", "who", "label"), say(row, "e"), element("span", "who", "read"), say(row, "p"));
  return into;
}

function tile(row, place) {
  const box = element("button", "tile" + (row.correct ? "" : " wrong"));
  box.type = "button";
  box.dataset.path = row.path;
  const frame = element("span", "pic");
  frame.append(picture(row));
  const foot = element("span", "foot");
  if (row.confidence !== null) {
    const bar = element("span", "sure"), fill = element("i");
    fill.style.width = 100 * row.confidence + "%";
    bar.append(fill);
    foot.append(element("span", "", percent(row.confidence)), bar);
  }
  foot.append(element("span", "", row.kind));
  box.append(frame, words(row, element("span", "words")), foot);
  box.addEventListener("click", () => open(place));
  return box;
}

function picture(row) {
  if (!row.image) return element("span", "soft", "no picture");
  const image = element("img");
  image.src = row.image;
  image.alt = row.text;
  image.loading = "lazy";
  return image;
}

const plain = (text) => text.normalize("NFC").toLowerCase();
const holds = (row, query) => [row.text, row.prediction, row.path].some((text) => plain(text).includes(query));

function chosen() {
  const query = plain(state.query.trim());
  const rows = data.views.find((view) => view.name === state.view).rows.map((i) => data.rows[i]);
  const fits = (row) =>
    (!query || holds(row, query)) &&
    (!state.pair || row.ops.some((op) => op[0] === "~" && op[1] + op[2] === state.pair)) &&
    Object.entries(state.filters).every(([name, value]) => !value || [].concat(row.facts[name] ?? []).includes(value));
  const found = rows.filter(fits);
  const order = data.orders.find((one) => one.name === state.order);
  if (order && order.key) {
    const sign = order.ascending ? 1 : -1, key = order.key;
    const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "ko"));
    found.sort((a, b) => (a[key] === null) - (b[key] === null) || sign * compare(a[key], b[key]));
  }
  return found;
}

function render() {
  state.rows = chosen();
  at("tiles").replaceChildren(...state.rows.slice(0, state.shown).map(tile));
  at("none").hidden = state.rows.length > 0;
  at("more").hidden = state.rows.length <= state.shown;
  const total = data.views.find((view) => view.name === state.view).rows.length;
  at("count").textContent = `${state.rows.length.toLocaleString("en")} of ${total.toLocaleString("en")} crops`;
  at("reset").hidden = !state.query && !state.pair && !Object.values(state.filters).some(Boolean);
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === state.view);
  for (const button of document.querySelectorAll("[data-pair]")) button.setAttribute("aria-pressed", button.dataset.pair === state.pair);
}

const change = (changes) => { Object.assign(state, changes, { shown: PAGE }); render(); };

function open(place) {
  state.open = Math.max(0, Math.min(place, state.rows.length - 1));
  const row = state.rows[state.open];
  state.zoom = 0;
  const image = picture(row);
  at("stage").replaceChildren(image);
  words(row, at("big"));
  const facts = { file: row.path, confidence: percent(row.confidence), ...row.facts };
  const shown = Object.entries(facts).filter(([, value]) => value !== "" && value !== null && String(value) !== "");
  at("facts").replaceChildren(...shown.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", [].concat(value).join(", "))]));
  if (!at("zoom").open) at("zoom").showModal();
  if (image.decode) image.decode().then(() => zoom(fitting(image)), () => {});
}

const fitting = (image) => Math.min((at("stage").clientWidth - 24) / image.naturalWidth, (at("stage").clientHeight - 24) / image.naturalHeight, 6);

function zoom(factor) {
  const image = at("stage").querySelector("img");
  if (!image) return;
  state.zoom = Math.max(0.25, Math.min(16, factor));
  image.style.width = image.naturalWidth * state.zoom + "px";
  at("factor").textContent = Math.round(100 * state.zoom) + " %";
}

function controls() {
  for (const view of data.views) {
    const button = element("button", "", `${view.name} (${view.rows.length.toLocaleString("en")})`);
    button.dataset.view = view.name;
    button.addEventListener("click", () => change({ view: view.name }));
    at("views").append(button);
  }
  for (const order of data.orders) at("order").append(new Option(order.name, order.name));
  for (const { name, values } of data.filters) {
    const label = element("label", "", name), select = element("select");
    select.dataset.filter = name;
    select.append(new Option("any", ""), ...values.map((value) => new Option(value, value)));
    select.addEventListener("change", () => change({ filters: { ...state.filters, [name]: select.value } }));
    label.append(select);
    at("filters").append(label);
  }
  for (const [expected, predicted, count] of data.pairs) {
    const button = element("button", "", `${visible(expected)} → ${visible(predicted)} `);
    button.dataset.pair = expected + predicted;
    button.append(element("small", "", String(count)));
    button.addEventListener("click", () => change({ pair: state.pair === button.dataset.pair ? "" : button.dataset.pair }));
    at("pairs").append(button);
  }
}

function reset() {
  at("query").value = "";
  for (const select of document.querySelectorAll("[data-filter]")) select.value = "";
  change({ query: "", pair: "", filters: {} });
}

function resize(factor) {
  const now = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--tile"));
  document.documentElement.style.setProperty("--tile", Math.max(110, Math.min(560, now * factor)) + "px");
}

controls();
at("query").addEventListener("input", (event) => change({ query: event.target.value }));
at("order").addEventListener("change", (event) => change({ order: event.target.value }));
at("reset").addEventListener("click", reset);
at("more").addEventListener("click", () => { state.shown += 2 * PAGE; render(); });
at("smaller").addEventListener("click", () => resize(1 / 1.3));
at("larger").addEventListener("click", () => resize(1.3));
at("previous").addEventListener("click", () => open(state.open - 1));
at("next").addEventListener("click", () => open(state.open + 1));
at("in").addEventListener("click", () => zoom(state.zoom * 1.4));
at("out").addEventListener("click", () => zoom(state.zoom / 1.4));
at("close").addEventListener("click", () => at("zoom").close());
at("zoom").addEventListener("click", (event) => { if (event.target === at("zoom")) at("zoom").close(); });
at("zoom").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { event.preventDefault(); open(state.open + step); }
  if (event.key === "+" || event.key === "=") zoom(state.zoom * 1.4);
  if (event.key === "-") zoom(state.zoom / 1.4);
});
render();
