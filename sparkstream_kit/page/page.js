// The live page of a job. What the job sends is merged into `known`, and drawn at most once per animation frame.
//
// Whoever can write a line into a log can put text on this page. So what comes from the job becomes text and numbers,
// never markup; and what it names is kept in Maps, as a name may be "__proto__".

const KEPT = 200; // batches
const RETRY = 2000; // ms until a new connection, where the browser does not make one by itself
const SILENCE = 15000; // ms without a message after which the connection is dead: the job sends one every 5 s
const LEFT = 48; // px for the labels of a vertical axis
const RIGHT = 8;
const SYMBOLS = new Map([["good", "●"], ["warn", "▲"], ["bad", "■"], ["off", "○"]]);

const known = {
  job: null,
  health: { state: "no-connection", level: "off", reason: "" },
  totals: null,
  batches: [], // oldest first
  sources: [], outputs: [], states: [],
  panels: new Map(),
  order: null, // of the panels, by name
};
const clock = { ahead: 0, heard: 0, opened: 0 }; // ms: the job's clock against ours, the last message, the connection
let events; // the EventSource
let isLost = true;
let isRefused = false; // the server asks for a token
let width; // px of the page
let chosen = null; // the number of the batch that is described below the charts, instead of the newest

// --- elements

const find = (selector) => document.querySelector(selector);

function html(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children); // strings become text
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Change a text only if it is another: screen readers announce what changes. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- numbers and times in words

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const isNumber = (value) => typeof value === "number";

function number(value) {
  if (!isNumber(value)) return value == null ? "–" : String(value);
  return Number.isInteger(value) ? grouped.format(value) : precise.format(value);
}

function size(bytes) {
  if (!isNumber(bytes)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = Math.min(Math.max(Math.floor(Math.log2(bytes || 1) / 10), 0), units.length - 1);
  const scaled = bytes / 1024 ** power;
  return `${scaled.toFixed(power && scaled < 100 ? 1 : 0)} ${units[power]}`;
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 120) return `${Number(seconds.toFixed(seconds < 10 ? 2 : 1))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${Number((100 * share).toFixed(1))} %`);
const ago = (ms) => `${duration(Math.max(Math.round(ms / 1000), 0))} ago`;
const iso = (seconds) => new Date(seconds * 1000).toISOString();
const utc = (seconds) => iso(seconds).slice(11, 19);

function inWords(batch) {
  const phases = Object.entries(batch.phases ?? {}).filter(([, seconds]) => seconds > 0);
  const facts = [
    batch.records == null ? "an unknown number of records" : `${number(batch.records)} records`,
    batch.rejected == null ? "" : `${number(batch.rejected)} rejected`,
    duration(batch.seconds) + (phases.length ? ` (${phases.map(([n, s]) => `${n} ${s.toFixed(2)}`).join(", ")})` : ""),
    `delay ${duration(batch.delay)}`,
    batch.retries ? `tried again ${batch.retries === 1 ? "once" : `${number(batch.retries)} times`}` : "",
  ];
  return `batch ${batch.n} at ${utc(batch.time)} UTC: ${facts.filter(Boolean).join(", ")}`;
}

// --- the connection

function connect() {
  clock.opened = Date.now();
  events = new EventSource("events");
  events.onmessage = (message) => take(JSON.parse(message.data));
  events.onerror = () => {
    isLost = true;
    drawHeader();
    // the browser tries again by itself if a connection is refused, but not after an HTTP error, as of a proxy
    if (events.readyState !== EventSource.CLOSED) return;
    setTimeout(connect, RETRY);
    fetch("./").then(({ status }) => { isRefused = status === 401; }, () => {});
  };
}

function tick() {
  if (Date.now() - Math.max(clock.heard, clock.opened) > SILENCE && events.readyState !== EventSource.CLOSED) {
    isLost = true;
    events.close();
    connect();
  }
  drawHeader();
}

function take(news) {
  if (news.job && known.job && news.job.id !== known.job.id) return location.reload(); // another job has the port now
  Object.assign(clock, { heard: Date.now(), ahead: news.now * 1000 - Date.now() });
  isLost = isRefused = false;
  for (const part of ["job", "health", "totals", "sources", "outputs", "states"]) {
    if (part in news) known[part] = news[part];
  }
  const before = news.job ? [] : known.batches; // with the job come all the batches that its home knows
  const batches = new Map([...before, ...(news.batches ?? [])].map((batch) => [batch.n, batch]));
  known.batches = [...batches.values()].sort((a, b) => a.n - b.n).slice(-KEPT);
  for (const panel of news.panels ?? []) {
    // a restarted job has no results before its next batch: those it had before stay until then
    if (panel.n !== null || !known.panels.has(panel.name)) known.panels.set(panel.name, panel);
  }
  known.order = news.panel_order ?? known.order;
  drawHeader();
  for (const [draw, keys] of DRAWN_FROM) if (keys.some((key) => key in news)) redraw(draw);
}

// --- drawing, when the browser is ready for it

const dirty = new Set();

function redraw(draw) {
  if (!dirty.size) requestAnimationFrame(drawDirty);
  dirty.add(draw);
}

function drawDirty() {
  const draws = [...dirty];
  dirty.clear();
  for (const draw of draws) {
    try {
      draw();
    } catch (error) {
      console.error(error); // the other parts are still to be seen
    }
  }
}

/** What is drawn from which keys of a message. The header is drawn at once: its title is seen in hidden tabs, too. */
const DRAWN_FROM = new Map([
  [drawTiles, ["job", "totals", "batches"]],
  [drawTimeline, ["job", "batches"]],
  [drawTables, ["sources", "outputs", "states"]],
  [drawPanels, ["job", "panels", "panel_order"]],
]);

function drawHeader() {
  const { state, level, reason } = health();
  const badge = find("#health");
  const words = `${SYMBOLS.get(level) ?? "○"} ${state.replace("-", " ")}`;
  write(badge, words);
  Object.assign(badge.dataset, { state, level });
  write(find("#reason"), reason);
  // the sentence about a good job has new figures every few seconds: too much to listen to
  find("#reason").ariaLive = level === "good" || isLost ? "off" : "polite";
  write(find("#app"), known.job?.app ?? "…");
  write(find("#home"), known.job?.home ?? "");
  write(find("#run"), known.job ? `run ${known.job.run}, a batch every ${duration(known.job.interval)}` : "");
  const last = known.batches.at(-1);
  write(find("#last"), last ? `last batch ${ago(Date.now() + clock.ahead - last.ended * 1000)}` : "");
  document.body.classList.toggle("lost", isLost);
  document.title = known.job ? `${words} – ${known.job.app}` : words;
}

/** The health as it is shown: what the job has said, unless it says nothing any more. */
function health() {
  if (!isLost) return known.health;
  const { state, level, reason } = known.health;
  if (["stopped", "failed"].includes(state)) {
    return { state, level, reason: reason.includes("the job has ended") ? reason : `the job has ended: ${reason}` };
  }
  if (isRefused) {
    return { state: "no-connection", level: "off", reason: "open the address with ?token=, which is in the log" };
  }
  const heard = clock.heard ? `; last heard of ${ago(Date.now() - clock.heard)}` : "";
  return { state: "no-connection", level: "off", reason: `the job is down, or starting again${heard}` };
}

function drawTiles() {
  const { records, rejected, batches, retries } = known.totals ?? {};
  const tile = (name, ...content) => find(`[data-tile=${name}]`).replaceChildren(...content);
  const short = (value) => (value < 1e8 || !isNumber(value) ? number(value) : compact.format(value)); // fits on phones
  tile("records", short(records));
  tile("rejected", short(rejected), " ", html("small", {}, records ? percent(rejected / records) : ""));
  tile("batches", number(batches));
  tile("rate", rate(known.batches));
  tile("delay", duration(known.batches.at(-1)?.delay));
  tile("retries", number(retries));
}

/** Records per second over the last minute of batches, each of which has the records of an interval. */
function rate(batches) {
  const newest = batches.at(-1);
  const minute = batches.filter((batch) => batch.time > newest.time - 60 && batch.records != null);
  if (!minute.length || !known.job) return "–";
  const seconds = newest.time - minute[0].time + known.job.interval;
  const perSecond = minute.reduce((sum, batch) => sum + batch.records, 0) / seconds;
  return number(perSecond < 10 ? Number(perSecond.toFixed(1)) : Math.round(perSecond));
}

// --- charts

const scale = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

/** The smallest of 1, 2 and 5 times a power of ten that is not below a step. */
function roundStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * ([1, 2, 5].find((factor) => factor * power >= step * 0.999) ?? 10);
}

function multiples(step, low, high) {
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** The horizontal lines of a chart with their labels. */
function grid(y, low, high, width) {
  const step = roundStep((high - low) / 4 || 1);
  return multiples(step, low, high).map((value) => svg("g", {},
    svg("line", { class: value ? "grid" : "base", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { class: "end", x: LEFT - 6, y: y(value) + 4 }, compact.format(value))));
}

const bar = (kind, x, width, top, bottom) =>
  svg("rect", { class: kind, x, y: top, width: Math.max(width - 1, 1), height: Math.max(bottom - top, 0) });

function resized(element, width, height, ...children) {
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  element.setAttribute("height", height);
  element.replaceChildren(...children);
}

// --- the timeline: a slot for each batch, the newest at the right

const SLOT = { least: 6, most: 16 }; // px
const PLOT = { top: 16, bottom: 96 }; // px; there are marks above the highest bar

function drawTimeline() {
  find("#timeline .empty").hidden = known.batches.length > 0;
  find("#charts").hidden = !known.batches.length;
  const width = find("#charts").clientWidth;
  if (!width) return;
  const room = width - LEFT - RIGHT;
  const batches = known.batches.slice(-Math.max(Math.floor(room / SLOT.least), 1));
  const slot = Math.min(room / batches.length, SLOT.most);
  const x = (i) => width - RIGHT - (batches.length - i) * slot;
  const slots = (draw) => batches.map((batch, i) => svg("g", { class: "batch", "data-n": Number(batch.n) },
    svg("title", {}, inWords(batch)), bar("slot", x(i), slot + 1, 0, PLOT.bottom), ...draw(batch, x(i), slot)));
  drawRecords(find("#records"), batches, slots, width);
  drawSeconds(find("#seconds"), batches, slots, width, x, slot);
  choose(chosen);
}

function drawRecords(chart, batches, slots, width) {
  const high = Math.max(...batches.map((batch) => batch.records ?? 0), 1);
  const y = scale(0, high, PLOT.bottom, PLOT.top);
  const bars = slots(({ records, rejected }, x, slot) => {
    const top = y(records ?? 0);
    if (!rejected) return [bar("accepted", x, slot, top, PLOT.bottom)];
    const middle = Math.min(Math.max(y(records - rejected), top + 3), PLOT.bottom); // even a few can be seen
    const hatched = bar("rejected", x + 0.5, slot - 1, top, middle);
    hatched.setAttribute("fill", "url(#hatch)");
    return [bar("accepted", x, slot, middle, PLOT.bottom), hatched];
  });
  resized(chart, width, PLOT.bottom + 4, ...grid(y, 0, high, width), ...bars);
  chart.ariaLabel = `Records of each batch. The newest: ${inWords(batches.at(-1))}`;
}

function drawSeconds(chart, batches, slots, width, x, slot) {
  const interval = known.job?.interval ?? 0;
  const longest = Math.max(...batches.map((batch) => batch.seconds), interval);
  const latest = Math.max(...batches.map((batch) => batch.delay));
  const high = Math.max(longest, Math.min(latest, 3 * longest)) || 1; // after a long stop the bars are to be seen still
  const y = scale(0, high, PLOT.bottom, PLOT.top);
  const bars = slots(({ seconds, retries }, left) => {
    const [top, center, isLate] = [y(seconds), left + (slot - 1) / 2, interval && seconds > interval];
    const marks = [bar(isLate ? "late" : "in-time", left, slot, top, PLOT.bottom)];
    if (isLate) marks.push(svg("path", { class: "mark", d: `M${center} ${top - 7}l3 5h-6z` }));
    if (retries) marks.push(svg("circle", { class: "ring", cx: center, cy: top - (isLate ? 11 : 5), r: 2.5 }));
    return marks;
  });
  const delays = batches.map((batch, i) => `${x(i) + slot / 2} ${Math.max(y(batch.delay), PLOT.top - 8)}`);
  const limit = svg("line", { class: "interval", x1: LEFT, x2: width - RIGHT, y1: y(interval), y2: y(interval) });
  const delay = svg("path", { class: "delay", d: `M${delays.join("L")}` });
  resized(chart, width, PLOT.bottom + 18, ...grid(y, 0, high, width), delay, ...bars, limit,
    ...slotTimes(batches, x, slot));
  chart.ariaLabel = `Duration of each batch. The newest: ${inWords(batches.at(-1))}`;
  write(find("#interval-key"), `interval ${duration(interval)}`);
  write(find("#delay-key"), latest > high ? `delay, up to ${duration(latest)}: beyond the scale` : "delay");
}

/** Times below the slots, from the newest on, as many as there is room for. */
function slotTimes(batches, x, slot) {
  const step = Math.ceil(110 / slot);
  const labelled = batches.map((_, i) => i).filter((i) => (batches.length - 1 - i) % step === 0);
  return labelled.filter((i) => x(i) > LEFT + 12 || i === batches.length - 1).map((i) =>
    svg("text", { class: "end", x: x(i) + slot, y: PLOT.bottom + 14 },
      utc(batches[i].time) + (i === batches.length - 1 ? " UTC" : "")));
}

function choose(n) {
  chosen = n;
  const batch = known.batches.find(({ n }) => n === chosen) ?? known.batches.at(-1);
  if (!batch) return;
  for (const slot of document.querySelectorAll(".batch")) {
    slot.classList.toggle("chosen", Number(slot.dataset.n) === chosen);
  }
  find("#batch").ariaLive = chosen === null ? "off" : "polite";
  write(find("#batch"), inWords(batch));
}

function chooseByKey({ key }) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (!step) return;
  const shown = [...document.querySelectorAll("#records .batch")].map((slot) => Number(slot.dataset.n));
  const at = chosen === null ? shown.length - 1 : shown.indexOf(chosen) + step;
  choose(shown.at(Math.min(Math.max(at, 0), shown.length - 1)));
}

// --- tables

/** A cell; a short text is in one line, and of one that is very long the end may be seen in the tooltip only. */
function cell(tag, { side = "", ...properties }, text) {
  const className = `${side} ${text.length > 24 ? "long" : "short"}`;
  return html(tag, { className, ...properties }, html("div", { title: text.length > 100 ? text : "" }, text));
}

function row(header, ...figures) {
  return html("tr", {}, cell("th", { scope: "row" }, header),
    ...figures.map((text) => cell("td", { side: "number" }, text)));
}

const errorRow = (error) => html("tr", { className: "error" }, cell("td", { colSpan: 4 }, `▲ last error: ${error}`));
const fill = (selector, rows) => find(`${selector} tbody`).replaceChildren(...(rows.length ? rows : [row("–")]));

function drawTables() {
  fill("#sources", known.sources.map((source) =>
    row(source.name, number(source.records), size(source.bytes), waiting(source))));
  fill("#outputs", known.outputs.flatMap((output) => [
    row(output.name, number(output.rows), number(output.total_rows), number(output.retries)),
    ...(output.error ? [errorRow(output.error)] : []),
  ]));
  fill("#states", known.states.map((state) => row(state.name, number(state.rows), size(state.bytes))));
  find(".states").hidden = !known.states.length;
}

function waiting({ lag_records: records, lag_bytes: bytes }) {
  return records == null && bytes != null ? size(bytes) : number(records) + (bytes ? ` (${size(bytes)})` : "");
}

// --- results

const views = new Map(); // of each panel its elements, and what is drawn in them

function drawPanels() {
  const names = known.order?.filter((name) => known.panels.has(name)) ?? [...known.panels.keys()];
  find("#results .empty").hidden = names.length > 0 || !known.job;
  for (const name of names) if (!views.has(name)) views.set(name, newView(name));
  const [articles, shown] = [names.map((name) => views.get(name).article), find(".panels")];
  const isSame = articles.length === shown.children.length && articles.every((one, i) => one === shown.children[i]);
  if (!isSame) shown.replaceChildren(...articles); // which loses the focus and what is scrolled
  for (const name of names) drawPanel(views.get(name), known.panels.get(name));
}

function newView(name) {
  const when = html("span", { className: "quiet" });
  const body = html("div", { className: "scroll", role: "group", ariaLabel: name });
  const article = html("article", { className: "panel" }, html("header", {}, html("h3", {}, name), when), body);
  article.dataset.name = name;
  return { article, when, body, panel: null, width: 0 };
}

function drawPanel(view, panel) {
  const width = view.body.clientWidth;
  if (view.panel === panel && view.width === width) return;
  Object.assign(view, { panel, width });
  view.article.dataset.show = panel.show;
  view.body.tabIndex = panel.show === "line" ? -1 : 0; // whatever may scroll does so by keyboard, too
  view.article.classList.toggle("wide", (panel.columns?.length ?? 0) > 6);
  write(view.when, panel.n == null ? "" : `batch ${panel.n} at ${utc(panel.time)} UTC`);
  const draw = { bar: bars, line: lines }[panel.show] ?? cells;
  view.body.replaceChildren(...(panel.n == null ? [note("nothing yet")] : draw(panel, width)));
}

const note = (text) => html("p", { className: "quiet" }, text);
const rest = (cut, things) => (cut ? [note(`… and more ${things}`)] : []);

function table(className, head, rows) {
  return html("table", { className }, html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows));
}

function cells({ columns, rows, cut }) {
  const sides = columns.map(({ kind }) => (kind === "number" ? "number" : ""));
  const head = columns.map(({ name }, i) => cell("th", { scope: "col", side: sides[i] }, name));
  const body = rows.map((values) => html("tr", {}, ...values.map((value, i) => valueCell(value, sides[i]))));
  return [table("", head, body), ...(rows.length ? [] : [note("no rows")]), ...rest(cut, "rows")];
}

function valueCell(value, side) {
  if (value === null) return cell("td", { side: `null ${side}` }, "null");
  return cell("td", { side }, side ? number(value) : String(value));
}

function bars({ bars: items, value: measured, cut }) {
  if (!items.length) return [note("no rows")];
  const most = Math.max(...items.map(({ value }) => Math.abs(value)));
  const body = items.map(({ label, value }) => {
    const drawn = html("div", { className: value < 0 ? "bar negative" : "bar", hidden: !value });
    drawn.style.width = `${(Math.abs(value) / most) * 100}%`;
    return html("tr", {}, html("th", { scope: "row", title: label }, label), html("td", {}, drawn),
      html("td", { className: "number" }, number(value)));
  });
  const named = html("th", { scope: "col", className: "number", title: measured }, measured);
  return [table("bars", [html("td", {}), html("td", {}), named], body), ...rest(cut, "rows")];
}

const LINES = { height: 180, top: 8, bottom: 160, colours: 6 };
const DASHES = ["none", "7 4", "2 4", "10 4 2 4", "14 5"];
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400]; // s

const style = (i) => ({ class: `line line-${i % LINES.colours}`, "stroke-dasharray": DASHES[i % DASHES.length] });

function lines({ x: times, lines: all, cut }, width) {
  const values = all.flatMap((line) => line.values).filter(isNumber);
  if (!values.length) return [note("no numbers yet")];
  const least = values.reduce((a, b) => Math.min(a, b), 0); // there may be more values than a call takes arguments
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  const step = roundStep((most - least) / 4 || 1);
  const [low, high] = [Math.floor(least / step) * step, Math.ceil(most / step) * step || (least ? 0 : step)];
  const x = scale(times[0], times.at(-1), LEFT, width - RIGHT);
  const y = scale(low, high, LINES.bottom, LINES.top);
  const chart = svg("svg", { class: "chart", role: "img" });
  const paths = all.map((line, i) => svg("path", { ...style(i), d: path(times.map(x), line.values, y) }));
  resized(chart, width, LINES.height, ...grid(y, low, high, width), ...timeAxis(times, x), ...paths);
  chart.ariaLabel = `Lines over time: ${all.map(({ label }) => label).join(", ")}`;
  return [chart, html("div", { className: "key" }, ...all.map(keyOf)), ...rest(cut, "lines")];
}

/** A line with a gap where there is no value; a value on its own is a small circle. */
function path(xs, values, y) {
  const isMissing = (i) => !isNumber(values[i]);
  return values.map((value, i) => {
    if (isMissing(i)) return "";
    if (!isMissing(i - 1)) return `L${xs[i]} ${y(value)}`;
    return `M${xs[i]} ${y(value)}${isMissing(i + 1) ? "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0" : ""}`;
  }).join("");
}

function keyOf({ label, values }, i) {
  const swatch = svg("svg", { class: "swatch dashes" }, svg("path", { ...style(i), d: "M1 8h30" }));
  return html("span", {}, swatch, html("bdi", { title: label }, label), html("b", {}, number(values.at(-1))));
}

function timeAxis(times, x) {
  const [first, last] = [times[0], times.at(-1)];
  const wanted = ((last - first) * 80) / Math.max(x(last) - x(first), 1); // s between labels, at 80 px each
  const step = STEPS.find((seconds) => seconds >= wanted) ?? Math.ceil(wanted / 86400) * 86400;
  const ticks = last > first ? multiples(step, first, last) : [first];
  const zone = svg("text", { class: "end", x: LEFT - 26, y: LINES.height - 4 }, "UTC");
  return [zone, ...ticks.map((time) => {
    const text = time % 86400 === 0 ? iso(time).slice(0, 10) : step < 60 ? utc(time) : utc(time).slice(0, 5);
    const near = Math.max(Math.min(x(time), x(last) - 20), LEFT); // else the last one is cut off
    return svg("text", { class: "middle", x: near, y: LINES.height - 4 }, text);
  })];
}

// --- the start

find("#charts").addEventListener("pointerover", ({ target }) => {
  const slot = target.closest(".batch");
  if (slot) choose(Number(slot.dataset.n));
});
find("#charts").addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && choose(null));
find("#charts").addEventListener("blur", () => choose(null));
find("#charts").addEventListener("keydown", chooseByKey);
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width === width) return; // what was drawn has changed the height
  width = contentRect.width;
  redraw(drawTimeline);
  redraw(drawPanels);
}).observe(find("main"));
setInterval(tick, 1000);
connect();
