// The page /query: asks the HTTP API of its own server, draws what it answers. No request leaves the host.
"use strict";

const $ = (id) => document.getElementById(id);
const input = $("expression");
const HISTORY_MAX = 30;
const SERIES_MAX = 200; // drawn; the table shows as many rows
const SHADES = 12;
// Beside the page, and without the user and password that its address may have: a request must not have any.
const API = location.origin + location.pathname.replace(/[^/]*$/, "api/v1/");

// --- the state is the address -------------------------------------------------------------------------------------

const state = {
  read() {
    const params = new URLSearchParams(location.search);
    input.value = params.get("g0.expr") || "";
    $("range").value = params.get("g0.range_input") || "1h";
    $("end").value = params.get("g0.end_input") || "";
    $("step").value = params.get("g0.step_input") || "";
    show(params.get("g0.tab") === "table" ? "table" : "graph");
  },
  write() {
    const params = new URLSearchParams({ "g0.expr": input.value, "g0.tab": tab, "g0.range_input": $("range").value });
    if ($("end").value) params.set("g0.end_input", $("end").value);
    if ($("step").value) params.set("g0.step_input", $("step").value);
    const address = "query?" + params;
    const here = location.pathname.split("/").pop() + location.search;
    if (here !== address) history.pushState(null, "", address);
  },
};

let tab = "graph";
function show(name) {
  tab = name;
  for (const one of ["graph", "table"]) {
    $(one).hidden = one !== name;
    $("tab-" + one).setAttribute("aria-selected", String(one === name));
  }
  $("graph-controls").hidden = name !== "graph";
}

// --- asking -------------------------------------------------------------------------------------------------------

const UNITS = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400, w: 604800, y: 31536000 };
function seconds(text) {
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text);
  let total = 0;
  const rest = text.replace(/(\d+)(ms|[smhdwy])/g, (_, number, unit) => ((total += number * UNITS[unit]), ""));
  return rest.trim() === "" && total > 0 ? total : NaN;
}

let asking = null;
async function ask(path, params) {
  if (asking) asking.abort();
  asking = new AbortController();
  const answer = await fetch(API + path, { method: "POST", body: new URLSearchParams(params), signal: asking.signal });
  const json = await answer.json();
  if (json.status !== "success") throw new Error(json.errorType + ": " + json.error);
  return json;
}

async function run() {
  const expression = input.value.trim();
  notes([]);
  if (!expression) return;
  state.write();
  remember(expression);
  const started = performance.now();
  $("summary").textContent = "…";
  const end = $("end").value ? Date.parse($("end").value + "Z") / 1000 : Date.now() / 1000;
  try {
    let json;
    if (tab === "graph") {
      const range = seconds($("range").value.trim());
      const step = $("step").value ? seconds($("step").value.trim()) : Math.max(Math.floor(range / 250), 1);
      if (!(range > 0) || !(step > 0)) throw new Error("range and step are lengths of time, such as 30m or 15s");
      json = await ask("query_range", { query: expression, start: end - range, end, step, stats: "all" });
      draw(json.data.result, end - range, end, step);
    } else {
      json = await ask("query", { query: expression, time: end, stats: "all" });
      list(json.data);
    }
    notes([...(json.warnings || []), ...(json.infos || [])]);
    const count = Array.isArray(json.data.result) ? json.data.result.length : 1;
    const samples = json.data.stats ? json.data.stats.samples.totalQueryableSamples : 0;
    $("summary").textContent = `${count} series · ${samples.toLocaleString("en")} samples · ${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    if (error.name === "AbortError") return;
    $("summary").textContent = "";
    clear();
    notes([error.message]);
  }
}

function notes(texts) {
  $("notes").replaceChildren(...texts.map((text) => element("p", "note", text)));
}

// Text from outside only ever becomes text.
function element(name, style, text) {
  const made = document.createElement(name);
  if (style) made.className = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

function label(metric) {
  const name = metric.__name__ || "";
  const rest = Object.entries(metric).filter(([key]) => key !== "__name__");
  const inner = rest.map(([key, value]) => key + "=" + JSON.stringify(value)).join(", ");
  return inner || !name ? `${name}{${inner}}` : name;
}

// --- table --------------------------------------------------------------------------------------------------------

function list(data) {
  const body = $("rows");
  body.replaceChildren();
  const row = (metric, text) => {
    const line = body.insertRow();
    line.insertCell().textContent = metric;
    const value = line.insertCell();
    value.className = "number";
    value.textContent = text;
  };
  if (!Array.isArray(data.result) || data.resultType === "scalar" || data.resultType === "string") {
    row(data.resultType, data.result[1]);
    return;
  }
  for (const one of data.result.slice(0, SERIES_MAX)) {
    let text = "";
    if (one.value) text = one.value[1];
    else if (one.histogram) text = JSON.stringify(one.histogram[1]);
    else text = [...(one.values || [])].map(([time, value]) => `${value} @${time}`).join("\n");
    row(label(one.metric), text);
  }
  if (data.result.length > SERIES_MAX) row(`and ${data.result.length - SERIES_MAX} more`, "");
  if (data.result.length === 0) row("No series.", "");
}

// --- graph --------------------------------------------------------------------------------------------------------

let plot = null;
function clear() {
  if (plot) plot.destroy();
  plot = null;
  $("legend").replaceChildren();
  $("rows").replaceChildren();
}

function colour(i) {
  return `oklch(var(--lightness) 0.16 ${(i * 360 * 0.381966 + 250) % 360})`;
}

function draw(result, start, end, step) {
  clear();
  const shown = result.slice(0, SERIES_MAX);
  const times = [];
  for (let time = start; time <= end + step / 1e6; time += step) times.push(time);
  const place = new Map(times.map((time, i) => [Math.round(time * 1000), i]));
  const columns = shown.map((one) => {
    const column = new Array(times.length).fill(null);
    for (const [time, value] of one.values || []) {
      const at = place.get(Math.round(time * 1000));
      if (at !== undefined && Number.isFinite(Number(value))) column[at] = Number(value);
    }
    return column;
  });
  const style = getComputedStyle(document.body);
  const box = $("plot");
  const probe = element("i");
  box.append(probe);
  const ink = style.getPropertyValue("color");
  const paint = (i) => {
    probe.style.color = colour(i % (SHADES * 4));
    return getComputedStyle(probe).color;
  };
  const axis = { stroke: ink, grid: { stroke: "rgba(128,128,128,.2)" }, ticks: { stroke: "rgba(128,128,128,.3)" } };
  const series = shown.map((one, i) => ({ label: label(one.metric), stroke: paint(i), width: 1.5, spanGaps: false, points: { show: times.length < 3 } }));
  const number = (value) => (value === null ? "" : Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(6)));
  plot = new uPlot(
    {
      width: box.clientWidth,
      height: 420,
      cursor: { focus: { prox: 24 }, drag: { x: true, y: false } },
      focus: { alpha: 0.25 },
      legend: { show: false },
      axes: [axis, { ...axis, size: 80, values: (_, ticks) => ticks.map(number) }],
      series: [{}, ...series],
      hooks: {
        setCursor: [(u) => hover(u, number)],
        setSelect: [zoom],
      },
    },
    [times, ...columns],
    box,
  );
  probe.remove();
  shown.forEach((one, i) => {
    const line = element("li");
    const swatch = element("i", "swatch");
    swatch.style.background = series[i].stroke;
    line.append(swatch, element("span", "", series[i].label), element("span", "value"));
    line.addEventListener("click", () => {
      // One series alone, or all again.
      const alone = plot.series.slice(1).every((other, j) => other.show === (j === i));
      plot.batch(() => plot.series.slice(1).forEach((_, j) => plot.setSeries(j + 1, { show: alone || j === i })));
      [...$("legend").children].forEach((other, j) => other.classList.toggle("off", !(alone || j === i)));
    });
    $("legend").append(line);
  });
  if (result.length > SERIES_MAX) $("legend").append(element("li", "faint", `and ${result.length - SERIES_MAX} more, not drawn`));
  if (result.length === 0) $("legend").append(element("li", "faint", "No series."));
}

function hover(u, number) {
  const at = u.cursor.idx;
  $("when").textContent = at === null || at === undefined ? "" : new Date(u.data[0][at] * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC";
  [...$("legend").children].forEach((line, i) => {
    const value = line.querySelector(".value");
    if (value) value.textContent = at === null || at === undefined ? "" : number(u.data[i + 1][at] ?? null);
  });
}

// Dragging picks a range and asks again.
function zoom(u) {
  if (u.select.width < 8) return;
  const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
  $("range").value = Math.max(Math.round(to - from), 1) + "s";
  $("end").value = new Date(to * 1000).toISOString().slice(0, 19);
  $("step").value = "";
  run();
}

// --- history and completion ---------------------------------------------------------------------------------------

function remembered() {
  try {
    return JSON.parse(localStorage.getItem("ringscrape.history") || "[]").filter((one) => typeof one === "string");
  } catch {
    return [];
  }
}

function remember(expression) {
  const all = [expression, ...remembered().filter((one) => one !== expression)].slice(0, HISTORY_MAX);
  try {
    localStorage.setItem("ringscrape.history", JSON.stringify(all));
  } catch {
    // A browser that keeps nothing has no history.
  }
  offerHistory();
}

function offerHistory() {
  const box = $("history");
  const option = (text, value) => Object.assign(element("option", "", text), { value });
  box.replaceChildren(option("history", ""), ...remembered().map((one) => option(one.length > 120 ? one.slice(0, 120) + "…" : one, one)));
}

const WORDS = ["by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "sum", "avg", "count", "min", "max", "topk", "bottomk", "quantile", "stddev", "stdvar", "count_values", "group"];
const known = { metrics: [], functions: [], values: new Map(), labels: new Map() };

async function fetched(path) {
  const json = await (await fetch(API + path)).json();
  return json.status === "success" ? json.data : [];
}

async function learn() {
  known.metrics = await fetched("label/__name__/values?limit=40000");
  const features = await fetched("features");
  known.functions = Object.entries(features.promql_functions || {}).filter(([, on]) => on).map(([name]) => name);
}

// What stands before the cursor, and what may stand there.
async function candidates() {
  const before = input.value.slice(0, input.selectionStart);
  const open = before.lastIndexOf("{") > before.lastIndexOf("}");
  if (open) {
    const metric = (before.slice(0, before.lastIndexOf("{")).match(/([a-zA-Z_:][\w:]*)\s*$/) || [])[1];
    const match = metric ? "match[]=" + encodeURIComponent(metric) : "";
    const value = before.match(/([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"([^"]*)$/);
    if (value) {
      const key = value[1] + " " + match;
      if (!known.values.has(key)) known.values.set(key, await fetched(`label/${value[1]}/values?limit=1000&${match}`));
      return { word: value[2], from: known.values.get(key), after: "" };
    }
    const name = before.match(/[{,]\s*(\w*)$/);
    if (!name) return null;
    if (!known.labels.has(match)) known.labels.set(match, await fetched("labels?limit=1000&" + match));
    return { word: name[1], from: known.labels.get(match).filter((one) => one !== "__name__"), after: '="' };
  }
  const grouping = before.match(/\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*,)?\s*(\w*)$/);
  if (grouping) {
    if (!known.labels.has("")) known.labels.set("", await fetched("labels?limit=1000"));
    return { word: grouping[2], from: known.labels.get("").filter((one) => one !== "__name__"), after: "" };
  }
  const word = before.match(/[a-zA-Z_:][\w:]*$/);
  if (!word) return null;
  return { word: word[0], from: [...known.functions, ...WORDS, ...known.metrics], after: "" };
}

let offered = [];
let chosen = -1;
async function complete() {
  const found = await candidates();
  const box = $("completion");
  offered = [];
  if (found && (found.word.length > 0 || found.after)) {
    const needle = found.word.toLowerCase();
    const rank = (one) => (one.toLowerCase().startsWith(needle) ? 0 : 1);
    offered = found.from.filter((one) => one !== found.word && one.toLowerCase().includes(needle));
    offered = [...new Set(offered)].sort((a, b) => rank(a) - rank(b) || a.length - b.length || (a < b ? -1 : 1)).slice(0, 12);
    offered = offered.map((text) => ({ text, word: found.word, after: found.after }));
  }
  chosen = -1;
  box.hidden = offered.length === 0;
  box.replaceChildren(
    ...offered.map((one) => {
      const line = element("li", "", one.text);
      line.addEventListener("mousedown", (event) => (event.preventDefault(), take(one)));
      return line;
    }),
  );
}

function take(one) {
  const at = input.selectionStart;
  const start = at - one.word.length;
  input.setRangeText(one.text + one.after, start, at, "end");
  $("completion").hidden = true;
  input.focus();
}

function choose(by) {
  chosen = (chosen + by + offered.length + 1) % (offered.length + 1);
  [...$("completion").children].forEach((line, i) => line.classList.toggle("chosen", i === chosen));
}

input.addEventListener("input", complete);
input.addEventListener("blur", () => ($("completion").hidden = true));
input.addEventListener("keydown", (event) => {
  const open = !$("completion").hidden;
  if (open && event.key === "ArrowDown") choose(1);
  else if (open && event.key === "ArrowUp") choose(-1);
  else if (open && event.key === "Escape") $("completion").hidden = true;
  else if (open && event.key === "Tab") take(offered[Math.max(chosen, 0)]);
  else if (open && event.key === "Enter" && chosen >= 0 && chosen < offered.length) take(offered[chosen]);
  else if (event.key === "Enter" && !event.shiftKey) {
    $("completion").hidden = true;
    run();
  } else return;
  event.preventDefault();
});

// --- start --------------------------------------------------------------------------------------------------------

$("ask").addEventListener("submit", (event) => (event.preventDefault(), run()));
$("history").addEventListener("change", (event) => {
  if (event.target.value) input.value = event.target.value;
  event.target.value = "";
  run();
});
for (const name of ["graph", "table"]) $("tab-" + name).addEventListener("click", () => (show(name), run()));
for (const name of ["range", "end", "step"]) $(name).addEventListener("change", run);
window.addEventListener("popstate", () => (state.read(), run()));
window.addEventListener("resize", () => plot && plot.setSize({ width: $("plot").clientWidth, height: 420 }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", run);

state.read();
offerHistory();
learn();
run();
