// Functions of the front end that need no page: node --test tests/unit.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

globalThis.matchMedia = () => ({ matches: false, addEventListener() {} });
globalThis.document = { documentElement: { dataset: {} } };
globalThis.location = { origin: "http://x", pathname: "/query", search: "" };

const root = fileURLToPath(new URL("..", import.meta.url));
const built = await esbuild.build({
  stdin: {
    contents: ["address", "format", "text", "diff", "results", "targets", "settings"].map((name) => `export * from "./src/lib/${name}";`).join("\n") + `export { exprTree } from "./src/editor/tree";`,
    resolveDir: root,
  },
  bundle: true,
  write: false,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "error",
});
const lib = await import(`data:text/javascript;base64,${Buffer.from(built.outputFiles[0].text).toString("base64")}`);

test("an address decodes to what it was made of", () => {
  const addresses = [
    "g0.expr=up&g0.show_tree=0&g0.tab=table&g0.range_input=1h&g0.res_type=auto&g0.res_density=medium&g0.display_mode=lines&g0.show_exemplars=0",
    "g0.expr=a%2Bb&g0.show_tree=1&g0.tab=graph&g0.end_input=2026-01-02+03%3A04%3A05&g0.moment_input=2026-01-02+03%3A04%3A06&g0.range_input=1h30m&g0.res_type=fixed&g0.res_step=60&g0.display_mode=heatmap&g0.show_exemplars=1&g0.y_axis_min=0",
    "g0.expr=x&g0.show_tree=0&g0.tab=explain&g0.range_input=2w&g0.res_type=custom&g0.res_step=0.5&g0.display_mode=stacked&g0.show_exemplars=0&g0.y_log=1&g1.expr=y&g1.show_tree=0&g1.tab=table&g1.range_input=5m&g1.res_type=auto&g1.res_density=high&g1.display_mode=lines&g1.show_exemplars=0",
  ];
  for (const address of addresses) {
    const again = new URLSearchParams(lib.encode(lib.decode(`?${address}`)));
    assert.deepEqual([...again].sort(), [...new URLSearchParams(address)].sort());
  }
});

test("addresses of alerts, of the old UI and of older pages of ours", () => {
  const first = (search) => lib.decode(search)[0];
  assert.equal(first("?g0.expr=up&g0.tab=1").tab, "table");
  assert.equal(first("?g0.expr=up&g0.tab=0").tab, "graph");
  assert.equal(first("?g0.expr=up").tab, "table");
  assert.equal(first("?g0.expr=up&g0.stacked=1&g0.tab=0").display, "stacked");
  assert.deepEqual(first("?g0.step_input=1m").resolution, { kind: "custom", ms: 60_000 });
  assert.deepEqual(first("?g0.step_input=15").resolution, { kind: "custom", ms: 15_000 });
  assert.equal(first("?g0.end_input=2026-01-02T03%3A04").end, Date.UTC(2026, 0, 2, 3, 4));
  assert.equal(first("?g0.range_input=rubbish&g0.end_input=rubbish").range, 3_600_000);
  assert.equal(lib.decode(`?${[...Array(500).keys()].map((i) => `g${i}.expr=1`).join("&")}`).length, lib.PANELS_MAX);
});

test("a graph never asks for more points than are answered", () => {
  for (const range of [1_000, 3_600_000, 31_536_000_000]) {
    for (const resolution of [{ kind: "custom", ms: 1 }, { kind: "auto", density: "high" }]) {
      assert.ok(range / lib.stepOf({ ...lib.newPanel(), range, resolution }) <= 11_000);
    }
  }
});

test("durations as Prometheus writes them", () => {
  for (const [text, ms] of [["5m", 300_000], ["1h30m", 5_400_000], ["1d", 86_400_000], ["2w", 1_209_600_000], ["90", 90_000], ["1ms", 1]]) assert.equal(lib.parseDuration(text), ms);
  for (const text of ["", "m", "1x", "-5m", "1h 30m", "5m;"]) assert.equal(lib.parseDuration(text), null, text);
  for (const text of ["5m", "1h30m", "2w", "1ms", "36h5m"]) assert.equal(lib.parseDuration(lib.duration(lib.parseDuration(text))), lib.parseDuration(text));
});

test("what is not drawn becomes visible, and only web pages become links", () => {
  assert.equal(lib.visible("a\u202eb\u0000c\u200bd\ud800"), "a\\u202eb\\u0000c\\u200bd\\ud800");
  assert.equal(lib.visible("ä 😀 \t\n"), "ä 😀 \t\n");
  assert.ok(lib.visible("x".repeat(1_000_000)).length < 30_000);
  for (const bad of ["javascript:alert(1)", " javascript:x", "data:text/html,x", "//host", "/path", "http:/x y", "JAVASCRIPT:1", "java\tscript:1"]) assert.equal(lib.safeLink(bad), null, bad);
  assert.equal(lib.safeLink("https://a.example/x?y"), "https://a.example/x?y");
});

test("selectors quote what has to be quoted", () => {
  assert.equal(lib.selector({ __name__: "up", job: 'a"b\\c\nd' }), 'up{job="a\\"b\\\\c\\nd"}');
  assert.equal(lib.selector({ __name__: "up" }), "up");
  assert.equal(lib.selector({ __name__: "a.b", "x y": "1" }), '{"a.b", "x y"="1"}');
  assert.equal(lib.selector({}), "{}");
  const proto = JSON.parse('{"__proto__": "x", "constructor": "y"}');
  assert.equal(lib.selector(proto), '{__proto__="x", constructor="y"}');
});

test("differences of texts are the lines that differ, with what is around them", () => {
  const before = [...Array(40).keys()].map(String);
  const after = before.filter((line) => line !== "20").concat("new");
  const lines = lib.differences(before, after);
  assert.deepEqual(lines.filter((line) => line.kind === "-").map((line) => line.text), ["20"]);
  assert.deepEqual(lines.filter((line) => line.kind === "+").map((line) => line.text), ["new"]);
  assert.ok(lines.some((line) => line.kind === "…"));
  assert.deepEqual(lib.differences(before, before), []);
  // Rebuilding the new text from all lines of a small difference.
  const small = lib.differences(["a", "b", "c"], ["a", "x", "c"]);
  assert.deepEqual(small.filter((line) => line.kind !== "-").map((line) => line.text), ["a", "x", "c"]);
});

test("buckets become differences of neighbours", () => {
  const series = ["+Inf", "1", "0.1"].map((le) => ({ metric: { __name__: "h", le }, values: [[0, { "0.1": "2", 1: "5", "+Inf": "6" }[le]]] }));
  const [heat] = lib.heatmaps(series, [0], 1_000);
  assert.deepEqual(heat.counts, [[2], [3], [1]]);
  assert.deepEqual(heat.bands.map((band) => band.high), [0.1, 1, Infinity]);
  const native = [{ metric: { a: "b" }, histograms: [[0, { count: "3", sum: "1", buckets: [[0, "1", "2", "3"], [3, "-0.1", "0.1", "1"]] }]] }];
  assert.deepEqual(lib.heatmaps(native, [0], 1_000)[0].counts, [[1], [3]]);
});

test("a spreadsheet does not carry out what is copied", () => {
  const text = lib.csv([{ metric: { a: "=cmd()", b: 'x,"y"' }, value: [1, "-2"] }]);
  assert.equal(text, `a,b,timestamp,value\n'=cmd(),"x,""y""",1,-2`);
});

test("an expression as a tree", () => {
  const tree = lib.exprTree("sum by (job) (rate(a[5m])) / on (job) group_left b offset 1h");
  assert.equal(tree.kind, "BinaryExpr");
  assert.deepEqual(tree.children.map((child) => child.text), ["sum by (job) (rate(a[5m]))", "b offset 1h"]);
  const range = tree.children[0].children[0].children[0];
  assert.deepEqual([range.text, range.isVector], ["a[5m]", false]);
  assert.equal(lib.exprTree(""), null);
  assert.ok(lib.exprTree("(".repeat(5_000)) !== undefined);
});

test("targets are found by label, URL and error", () => {
  const list = { count: 2, pools: [{ name: "a", labels: { job: "a" }, timeout: 1_000, sampleLimit: 10 }], pool: [0, 0], url: ["http://x:1/metrics", "http://y:1/metrics"], own: [[["rack", "b7"]], [["rack", "b8"]]], haystack: ["http://x:1/metrics\nrack=b7\njob=a", "http://y:1/metrics\nrack=b8\njob=a"] };
  const states = { health: "ud", errors: { 1: "Connection REFUSED" }, reason: { 1: 0 }, reasons: ["connect"], outcomes: ["5", "0"], outcomeCounts: { 0: 4, 1: 1 }, took: [600_000, 1], samples: [9, 0], samplesKept: {} };
  const find = (filter) => {
    const fits = lib.matcher({ list, states }, { health: [], pool: [], reason: [], search: "", special: [], ...filter });
    return [0, 1].filter(fits);
  };
  assert.deepEqual(find({ search: "rack=b7" }), [0]);
  assert.deepEqual(find({ search: 'RACK="b7" x:1' }), [0]);
  assert.deepEqual(find({ search: "refused" }), [1]);
  assert.deepEqual(find({ search: "job=a" }), [0, 1]);
  assert.deepEqual(find({ health: ["down"], reason: ["connect"] }), [1]);
  assert.deepEqual(find({ special: ["flapping"] }), [0]);
  assert.deepEqual(find({ special: ["slow"] }), [0]);
  assert.deepEqual(find({ special: ["near"] }), [0]);
});
