// The web UI in a real browser, against a real server. Run by engine/server/tests/ui.rs, or by hand:
//   RINGSCRAPE_BIN=target/debug/ringscrape node --test engine/api/ui/tests/ui.test.mjs
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test as nodeTest } from "node:test";
import { fileURLToPath } from "node:url";
import { close, drawn, open, PATIENCE_MS, serveTargets, Server, sleep, until } from "./harness.mjs";

/** Longest time of one test: the machine may be busy. */
const test = (name, run) => nodeTest(name, { timeout: 300_000 }, run);

const PAGES = ["overview", "targets", "query?g0.expr=up&g0.tab=graph", "query?g0.expr=up&g0.tab=table", "alerts", "rules", "service-discovery", "fleet", "tsdb-status", "config", "config?view=file", "flags", "status"];

let counter = 0;
const METRICS = () => {
  counter += 5;
  return `# HELP http_requests_total Requests that were answered.
# TYPE http_requests_total counter
http_requests_total{method="GET",code="200"} ${counter * 3}
http_requests_total{method="GET",code="500"} ${counter}
http_requests_total{method="POST",code="200"} ${counter * 2}
# HELP temperature_celsius Of the room.
# TYPE temperature_celsius gauge
temperature_celsius{room="a"} ${20 + (counter % 7)}
# TYPE latency_seconds histogram
latency_seconds_bucket{le="0.1"} ${counter}
latency_seconds_bucket{le="1"} ${counter * 2}
latency_seconds_bucket{le="+Inf"} ${counter * 3}
latency_seconds_sum ${counter}
latency_seconds_count ${counter * 3}
`;
};

const config = (address) => `
global: {scrape_interval: 1s, evaluation_interval: 1s, external_labels: {region: eu, replica: scrape-3}}
rule_files: [rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:1']}]}]}
scrape_configs:
  - job_name: app
    sample_limit: 10
    static_configs:
      - {targets: ['${address}'], labels: {rack: b7}}
      - {targets: ['drop.example:1']}
    relabel_configs:
      - {source_labels: [__address__], regex: 'drop.*', action: drop}
      - {source_labels: [rack], target_label: row, regex: '(.).*', replacement: 'row-$1'}
      - {source_labels: [nothing], regex: 'x', target_label: never}
  - job_name: dead
    static_configs: [{targets: ['127.0.0.1:1']}]
  - job_name: broken
    metrics_path: /broken
    static_configs: [{targets: ['${address}']}]
`;
const RULES = `
groups:
  - name: example
    rules:
      - {record: 'job:requests:rate', expr: 'sum by (job) (rate(http_requests_total[10s]))'}
      - alert: Down
        expr: up == 0
        labels: {severity: page}
        annotations: {summary: 'Target {{ $labels.instance }} is down', runbook: 'http://runbooks.example/down', trick: 'javascript:window.hit=1'}
      - {alert: Reads, expr: 'job:requests:rate < 0'}
      - {alert: Waits, expr: 'up == 1', for: 1h}
`;

let targets;
let server;
before(async () => {
  targets = await serveTargets({ "/metrics": METRICS, "/broken": "<!doctype html><title>Not metrics</title>\n" });
  server = await Server.start({ "prometheus.yml": config(targets.address), "rules.yml": RULES }, ["--web.enable-lifecycle"]);
  await until("some scrapes are there", async () => {
    const up = await server.api("query?query=count_over_time(up[1m])");
    return up.result.length === 3 && up.result.every((one) => Number(one.value[1]) >= 6);
  });
});
after(async () => {
  await close();
  await server?.stop();
  targets?.close();
});

const query = (page) => new URL(page.url()).searchParams;
/** The text of the editor, which lives in a shadow root. */
const editorText = (page, index = 0) => page.locator(".editor .cm-content").nth(index).innerText();
const editor = (page, index = 0) => page.locator(".editor .cm-content").nth(index);

async function type(page, text, index = 0) {
  await editor(page, index).click();
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.press("Delete");
  await page.keyboard.insertText(text);
}

test("query: a table, a graph, the address and the back button", async () => {
  const page = await open(server, "query");
  await editor(page).waitFor();
  await type(page, "sum by (method) (http_requests_total)");
  await page.getByRole("tab", { name: "Table" }).click();
  await page.getByRole("cell", { name: /method="GET"/ }).waitFor();
  assert.equal(await page.locator(".values tbody tr").count(), 2);
  assert.equal(query(page).get("g0.expr"), "sum by (method) (http_requests_total)");
  assert.equal(query(page).get("g0.tab"), "table");
  await page.getByRole("tab", { name: "Graph" }).click();
  await page.locator(".panel .uplot canvas").waitFor();
  assert.equal(query(page).get("g0.tab"), "graph");
  assert.equal(await page.locator(".legend tbody tr").count(), 2);
  await page.goBack();
  await page.locator(".values tbody tr").first().waitFor();
  assert.equal(query(page).get("g0.tab"), "table");
  await page.goForward();
  await page.locator(".panel .uplot canvas").waitFor();
  await page.reload();
  await page.locator(".panel .uplot canvas").waitFor();
  assert.equal(await editorText(page), "sum by (method) (http_requests_total)");
  await page.verify();
});

test("query: addresses of Prometheus' pages", async () => {
  // As alerts have it, as the old UI had it, and as the new one has it.
  const page = await open(server, "graph?g0.expr=up&g0.tab=1");
  await page.locator(".values tbody tr").first().waitFor();
  await page.goto(server.url("graph?g0.expr=temperature_celsius&g0.tab=0&g0.stacked=1&g0.range_input=30m&g1.expr=up&g1.tab=1"));
  await page.locator(".panel .uplot canvas").waitFor();
  assert.equal(await page.locator(".panel").count(), 2);
  assert.equal(await page.getByLabel("range of panel 1", { exact: true }).inputValue(), "30m");
  assert.equal(await page.getByRole("button", { name: "Stacked" }).first().getAttribute("aria-pressed"), "true");
  const address = "query?g0.expr=up&g0.show_tree=1&g0.tab=graph&g0.end_input=2026-01-02+03%3A04%3A05&g0.range_input=2h&g0.res_type=fixed&g0.res_step=60&g0.display_mode=lines&g0.show_exemplars=0&g0.y_axis_min=0";
  await page.goto(server.url(address));
  await page.getByText("no series in this range").waitFor();
  await page.getByRole("button", { name: "Run" }).first().click();
  for (const [name, value] of new URLSearchParams(address.slice(6))) assert.equal(query(page).get(name), value, name);
  await page.verify();
});

test("query: completion with its context, linter, format and history", async () => {
  const page = await open(server, "query", { expected: [/status of 400/] });
  await editor(page).waitFor();
  await editor(page).click();
  await page.keyboard.type("http_req", { delay: 15 });
  const metric = page.locator(".cm-tooltip-autocomplete li", { hasText: "http_requests_total" });
  await metric.waitFor();
  assert.match(await page.locator(".cm-tooltip-autocomplete").innerText(), /counter/);
  await sleep(150);
  await page.keyboard.press("Enter");
  await page.keyboard.type("{");
  await page.keyboard.type("me", { delay: 15 });
  await page.locator(".cm-tooltip-autocomplete li", { hasText: "method" }).waitFor();
  await sleep(150);
  await page.keyboard.press("Enter");
  await page.keyboard.type('="', { delay: 30 });
  await page.locator(".cm-tooltip-autocomplete li", { hasText: "POST" }).waitFor();
  await type(page, "sum(rate(http_requests_total))");
  await page.locator(".cm-lintRange-error").waitFor();
  await type(page, "sum  by(method)(rate( http_requests_total[1m]))");
  await page.getByRole("button", { name: "Format" }).click();
  await until("the text is formatted", async () => (await editorText(page)).startsWith("sum by (method) (rate(http_requests_total[1m]))"));
  await page.getByRole("button", { name: "Run" }).click();
  await page.locator(".legend tbody tr").first().waitFor();
  await type(page, "1");
  await page.keyboard.press("Alt+ArrowUp");
  assert.match(await editorText(page), /^sum by \(method\)/);
  await type(page, "sum((");
  await page.keyboard.press("ControlOrMeta+Enter");
  await page.getByText("bad_data").waitFor();
  await page.verify();
});

test("query: hover tells type and help of a metric", async () => {
  const page = await open(server, "query?g0.expr=rate(http_requests_total%5B1m%5D)&g0.tab=table");
  await page.locator(".values tbody tr").first().waitFor();
  await page.locator(".cm-line").hover({ position: { x: 90, y: 10 } });
  await page.locator(".cm-hover").waitFor();
  assert.match(await page.locator(".cm-hover").innerText(), /counter[\s\S]*Requests that were answered/);
  await page.verify();
});

test("query: annotations, tree, explain", async () => {
  const page = await open(server, "query?g0.expr=sum(rate(temperature_celsius%5B1m%5D))%20%2B%20sum%20by(method)(http_requests_total)&g0.tab=table&g0.show_tree=1");
  await page.getByText("might not be a counter").waitFor();
  const tree = page.getByRole("group", { name: "tree of the expression" });
  await tree.getByText(/3 series \[.*code 2/).waitFor();
  await page.getByRole("tab", { name: "Explain" }).click();
  await page.getByText("sum of the series that have the same (method)").waitFor();
  await page.verify();
});

test("query: ranges by mouse and by keys, legend, stacked, heat map, panels", async () => {
  const page = await open(server, "query?g0.expr=http_requests_total&g0.tab=graph&g0.range_input=5m");
  const chart = page.locator(".panel .u-over");
  await chart.waitFor();
  // Keys change the range that is drawn, which is the new one only with its answer.
  const drawn = () => page.locator("p.faint", { hasText: "Drag to zoom" }).textContent();
  let before = await drawn();
  const drawnAnew = async (what) => {
    await until(what, async () => (await drawn()) !== before);
    before = await drawn();
  };
  const box = await chart.boundingBox();
  await page.mouse.move(box.x + box.width * 0.5, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.995, box.y + 60, { steps: 5 });
  await page.mouse.up();
  await until("the range is another one", () => query(page).get("g0.end_input"));
  assert.match(query(page).get("g0.range_input"), /^2m/);
  await drawnAnew("the chosen range is drawn");
  await page.locator(".panel .chart").focus();
  await page.keyboard.press("-");
  await until("the range grew", () => /^4m/.test(query(page).get("g0.range_input")));
  await drawnAnew("the larger range is drawn");
  const end = query(page).get("g0.end_input") ?? "now";
  await page.locator(".panel .chart").focus();
  await page.keyboard.press("Shift+ArrowLeft");
  await until("the range moved", () => query(page).get("g0.end_input") && query(page).get("g0.end_input") < end);
  await page.goBack();
  await page.goBack();
  await page.goBack();
  assert.equal(query(page).get("g0.range_input"), "5m");
  await page.locator(".legend-name").first().waitFor();
  assert.equal(await page.locator(".legend-name").count(), 3);
  await page.locator(".legend-name").nth(1).click();
  assert.equal(await page.locator(".legend tr.off").count(), 2);
  await page.getByRole("button", { name: "Stacked" }).click();
  await until("the address says so", () => query(page).get("g0.display_mode") === "stacked");
  await type(page, "latency_seconds_bucket");
  await page.getByRole("button", { name: "Heat map" }).click();
  await page.locator("canvas.heat").waitFor();
  await page.getByText("buckets at the end").click();
  assert.equal(await page.locator("figure tbody tr").count(), 3);
  await page.getByRole("button", { name: "Add panel" }).click();
  assert.equal(await page.locator(".panel").count(), 2);
  await type(page, "up", 1);
  await page.keyboard.press("Enter");
  await page.locator(".panel").nth(1).locator(".u-over").waitFor();
  await page.getByRole("button", { name: "remove panel 1" }).click();
  assert.equal(query(page).get("g0.expr"), "up");
  await page.verify();
});

test("query: the explorer inserts what was chosen", async () => {
  const page = await open(server, "query");
  await page.getByRole("button", { name: "Explore" }).click();
  await page.getByLabel("search metrics").fill("HTTP_requests");
  await page.getByRole("button", { name: "http_requests_total" }).click();
  await page.getByRole("button", { name: "POST" }).click();
  await page.getByRole("button", { name: "Insert", exact: true }).click();
  assert.equal(await editorText(page), 'http_requests_total{method="POST"}');
  await page.verify();
});

test("targets: filters are in the address and survive a reload", async () => {
  const page = await open(server, "targets");
  await drawn(page);
  const list = page.getByRole("table", { name: "targets" });
  await list.getByText("connection refused").waitFor();
  await page.getByRole("button", { name: /down 2/ }).click();
  await page.getByText("2 of 3 targets").waitFor();
  assert.deepEqual(query(page).getAll("health"), ["down"]);
  await page.getByText("reasons ▾").click();
  await page.getByLabel("connect", { exact: true }).check();
  await page.getByText("1 of 3 targets").waitFor();
  assert.equal(query(page).get("reason"), "connect");
  await page.reload();
  await page.getByText("1 of 3 targets").waitFor();
  await page.goBack();
  await page.getByText("2 of 3 targets").waitFor();
  await page.goto(server.url("targets?search=rack%3Db7"));
  await page.getByText("1 of 3 targets").waitFor();
  assert.equal(await page.getByRole("row").filter({ has: page.locator("canvas.bits") }).count(), 1);
  // Addresses of older pages.
  await page.goto(server.url("targets?state=down&job=dead"));
  await page.getByText("1 of 3 targets").waitFor();
  // Keys work once the page has drawn what they act on.
  await until("the target is chosen", async () => {
    await page.keyboard.press("j");
    return (await page.locator(".row.chosen").count()) === 1;
  });
  await until("its page is opened", async () => {
    if (page.url().includes("/target?id=")) return true;
    await page.keyboard.press("Enter");
    return false;
  });
  await page.verify();
});

test("target: labels rule by rule, errors, limits and the begin of what was refused", async () => {
  const page = await open(server, "targets?pool=app", { expected: [/status of 404/] });
  await drawn(page);
  await page.getByRole("link", { name: /\/metrics/ }).first().click();
  await page.getByText("3 rules: 1 did something, 2 did nothing").waitFor();
  await page.getByText('+ row="row-b"').waitFor();
  await page.getByRole("cell", { name: /^http_requests_total$/ }).waitFor();
  const limit = page.getByRole("row", { name: /sample_limit/ });
  assert.match(await limit.innerText(), /9\s+10/);
  await page.locator(".uplot").first().waitFor();
  await page.getByRole("button", { name: "6 h" }).click();
  await until("the range is in the address", () => query(page).get("range") === "21600000");
  await page.goto(server.url("targets?pool=broken"));
  await drawn(page);
  await page.getByRole("link", { name: /\/broken/ }).first().click();
  await page.getByRole("region", { name: "begin of the body" }).waitFor();
  assert.match(await page.getByRole("region", { name: "begin of the body" }).innerText(), /<!doctype html><title>Not metrics/);
  await page.goto(server.url("target?id=0000000000000001"));
  await page.getByText("No such target here").waitFor();
  await page.verify();
});

test("overview: figures from the first minute on, and findings that lead on", async () => {
  const page = await open(server, "overview");
  await page.getByRole("link", { name: /1 target down: connect/ }).waitFor();
  await until("two points are there", async () => (await server.api("ringscrape/status/history")).times.length >= 2);
  await page.waitForFunction(() => /[0-9]/.test(document.querySelector('[data-chart="Samples a second"] .big')?.textContent ?? ""), null, { timeout: PATIENCE_MS });
  assert.ok((await page.locator(".uplot").count()) >= 10);
  const history = await server.api("ringscrape/status/history");
  const samples = history.process.samples.at(-1);
  assert.ok(samples > 5 && samples < 200, `${samples} samples a second`);
  assert.equal(history.targets.down, 2);
  assert.deepEqual(history.targets.jobs.map((job) => job.name).sort(), ["app", "broken", "dead"]);
  await page.getByRole("link", { name: /1 target down: connect/ }).click();
  await page.getByText("1 of 3 targets").waitFor();
  await page.verify();
});

test("alerts and rules: states, annotations as text, links", async () => {
  const page = await open(server, "alerts?state=firing");
  await page.getByText("Target 127.0.0.1:1 is down").waitFor();
  assert.equal(await page.getByRole("link", { name: "http://runbooks.example/down" }).first().getAttribute("rel"), "noopener noreferrer");
  assert.equal(await page.locator('a[href^="javascript"]').count(), 0);
  await page.getByText("javascript:window.hit=1").first().waitFor();
  const silence = await page.getByRole("link", { name: "silence" }).first().getAttribute("href");
  assert.ok(silence.startsWith("http://127.0.0.1:1/#/silences/new?filter=%7B"), silence);
  await page.getByRole("button", { name: /pending/ }).click();
  await page.getByText("Waits", { exact: true }).waitFor();
  // What an alert was in the last day; an opened rule asks for it.
  await page.getByText(/Last 24 hours, above firing, below pending: firing \d+ of 1440 minutes/).first().waitFor();
  await page.goto(server.url("alerts?state=inactive"));
  await page.getByText("Reads", { exact: true }).click();
  await page.getByText("Not pending or firing in the last 24 hours.").waitFor();
  await page.goto(server.url("rules"));
  await page.getByText("4 of 4 rules in 1 groups").waitFor();
  await page.getByRole("link", { name: "example", exact: true }).click();
  await page.waitForURL(/group=example/);
  await page.getByText(/the last \d+, longest .* \d+ missed since the start/).waitFor();
  await drawn(page);
  await page.goto(server.url("rules"));
  await page.getByRole("link", { name: "job:requests:rate", exact: true }).click();
  await page.getByText("2 of 4 rules in 1 groups").waitFor();
  await page.getByRole("link", { name: "job:requests:rate < 0" }).click();
  await page.waitForURL(/g0.expr=/);
  await drawn(page);
  await page.verify();
});

test("discovery: the funnel, and why an address is no target", async () => {
  const page = await open(server, "service-discovery");
  await page.getByRole("button", { name: "1 dropped by relabelling of app" }).click();
  await page.getByText("1 fits").waitFor();
  await page.getByRole("button", { name: "explain" }).click();
  await page.getByText("dropped it").waitFor();
  assert.equal(query(page).get("state"), "relabelling");
  await page.verify();
});

test("storage, flags, status, fleet", async () => {
  const page = await open(server, "tsdb-status?limit=50");
  await page.getByRole("region", { name: "Series by metric" }).getByText("http_requests_total").waitFor();
  await page.getByText(/^[\d.]+ \w+, [\d.]+ bytes a sample$/).first().waitFor();
  await page.getByText("No block yet").waitFor();
  await page.getByLabel("selector").fill('{job="app"}');
  await page.getByLabel("label", { exact: true }).fill("code");
  await page.getByRole("button", { name: "Count" }).click();
  await page.getByRole("region", { name: "Series by code" }).getByText("500").waitFor();
  await page.goto(server.url("flags?search=lifecycle"));
  await page.getByRole("row", { name: /web.enable-lifecycle/ }).waitFor();
  assert.equal(await page.getByRole("row").count(), 2);
  await page.goto(server.url("status"));
  await page.getByText("no section remote_write").waitFor();
  await page.getByText("storageRetention").waitFor();
  await page.goto(server.url("fleet"));
  await page.getByText("no member of a fleet").waitFor();
  await page.verify();
});

test("configuration: the difference to the file, a mistake with its place, and loading it", async () => {
  const page = await open(server, "config?view=file");
  await page.getByText("says the same as what is in force").waitFor();
  await server.write("prometheus.yml", config(targets.address).replace("sample_limit: 10", "sample_limit: 11"));
  await page.getByText("+     sample_limit: 11").or(page.getByText("+   sample_limit: 11")).first().waitFor();
  await page.getByRole("button", { name: "Load the file now" }).click();
  await page.getByText("says the same as what is in force").waitFor();
  assert.match((await server.api("status/config")).yaml, /sample_limit: 11/);
  await server.write("prometheus.yml", config(targets.address).replace("sample_limit: 10", "sample_limt: 10"));
  await page.getByText(/prometheus.yml:\d+:\d+/).waitFor();
  await server.write("prometheus.yml", config(targets.address));
  await page.getByText("differ from what is in force").waitFor();
  await page.verify();
});

test("times are in UTC or local, and the theme can be chosen", async () => {
  const page = await open(server, "query?g0.expr=up&g0.tab=graph&g0.end_input=2026-07-01+12%3A00%3A00");
  const end = page.getByLabel(/end of the range of panel 1, /);
  assert.equal(await end.inputValue(), "2026-07-01 12:00:00");
  await page.getByRole("button", { name: "UTC", exact: true }).click();
  await until("the time is local", async () => (await end.inputValue()) === "2026-07-01 14:00:00");
  assert.equal(query(page).get("g0.end_input"), "2026-07-01 12:00:00");
  await end.fill("2026-07-01 15:00:00");
  await end.press("Enter");
  await until("the address is in UTC", () => query(page).get("g0.end_input") === "2026-07-01 13:00:00");
  await page.getByRole("button", { name: "theme: auto" }).click();
  await page.getByRole("button", { name: "theme: light" }).click();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.reload();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.verify();
});

test("keys alone: help, search, pages", async () => {
  const page = await open(server, "targets");
  await drawn(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("?");
  await page.getByRole("heading", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog[open]").waitFor({ state: "detached" });
  // A dialog that closes gives the focus back, perhaps after the key.
  await until("the search has the focus", async () => {
    if ((await page.evaluate(() => document.activeElement.getAttribute("aria-label"))) === "search targets") return true;
    await page.keyboard.press("/");
    return false;
  });
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("e");
  await until("only what is down is shown", () => query(page).get("health") === "down");
  await page.keyboard.press("g");
  await page.keyboard.press("r");
  await page.waitForURL(/\/rules$/);
  await page.verify();
});

test("a server that refuses: the page says why, and goes on by itself", async () => {
  const expected = [/status of (401|429|503)|Failed to load resource/];
  for (const [status, text] of [[401, "asks for a user"], [429, "asked too often"]]) {
    const page = await open(server, null, { expected });
    await page.route("**/api/v1/ringscrape/**", (route) => route.fulfill({ status, body: "no" }));
    await page.goto(server.url("targets"));
    await page.locator(".banner", { hasText: text }).waitFor();
    await page.unrouteAll();
    await page.getByText("of 3 targets").waitFor();
    assert.equal(await page.locator(".banner").count(), 0);
    await page.verify();
  }
});

// Not proven: with 503 the banner comes and goes while other endpoints answer, and this waits in vain for its text.
nodeTest("a server that reads its log: the page says how far it is, and goes on by itself", { skip: "the banner of a 503 does not stay" }, async () => {
  const page = await open(server, null, { expected: [/status of 503|Failed to load resource/] });
  const replay = { status: "success", data: { min: 0, max: 9, current: 4, state: "in progress" } };
  await page.route("**/api/v1/status/walreplay", (route) => route.fulfill({ json: replay }));
  await page.route("**/api/v1/query*", (route) => route.fulfill({ status: 503, json: { status: "error", errorType: "unavailable", error: "the log is being read" } }));
  await page.goto(server.url("query?g0.expr=up&g0.tab=table"));
  await page.getByText("File 4 of 9").waitFor();
  await page.unrouteAll();
  await until("the banner is gone", async () => (await page.locator(".banner").count()) === 0);
  await page.getByRole("button", { name: "try again" }).click();
  await page.locator(".values tbody tr").first().waitFor();
  await page.verify();
});

test("a server that goes away and comes back", async () => {
  const other = await Server.start({ "prometheus.yml": config(targets.address), "rules.yml": RULES });
  const page = await open(other, "targets", { expected: [/ERR_|Failed to load resource/] });
  await page.getByLabel("refresh every").selectOption("5000");
  await page.getByText("of 3 targets").waitFor();
  await other.kill();
  await page.locator(".banner", { hasText: "The server does not answer. Last seen" }).waitFor();
  let requests = 0;
  page.on("request", () => (requests += 1));
  await sleep(6_000);
  assert.ok(requests <= 5, `${requests} requests in six seconds to a server that is away`);
  await page.getByText("of 3 targets").waitFor();
  await other.run(other.address);
  await until("the banner is gone", async () => (await page.locator(".banner").count()) === 0);
  await page.verify();
  await other.stop();
});

test("below a path, every link and request keeps it", async () => {
  const below = await Server.start({ "prometheus.yml": config(targets.address), "rules.yml": RULES }, ["--web.external-url=/a/b/"]);
  const page = await open(below, "");
  page.on("request", (request) => {
    const path = new URL(request.url()).pathname;
    if (!path.startsWith("/a/b/") && request.url() !== "data:,") page.problems.push(`left the path: ${request.url()}`);
  });
  await page.waitForURL(/\/a\/b\/overview$/);
  for (const name of ["Targets", "Query", "Alerts", "Rules", "Discovery", "Fleet", "Storage", "Configuration", "Flags", "Status", "Overview"]) {
    await page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
    await page.waitForURL(/\/a\/b\//);
    await drawn(page);
  }
  await page.verify();
  await below.stop();
});

test("without script, a page says where the same is", async () => {
  const page = await open(server, "targets", { context: { javaScriptEnabled: false } });
  assert.match(await page.locator("main").innerText(), /needs JavaScript.*api\/v1\/targets/s);
  await page.context().close();
});

const axe = await readFile(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
/** Violations of WCAG 2.2 A and AA, as lines. */
async function violations(page) {
  await page.evaluate(axe);
  const results = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }));
  return results.violations.flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.target} ${node.failureSummary?.split("\n")[1] ?? ""}`));
}

test("every page is accessible in both schemes, and within the width of a phone", async () => {
  const found = [];
  const id = (await server.api("ringscrape/targets/list")).targets.id[0];
  for (const where of [...PAGES, `target?id=${id}`]) {
    const page = await open(server, where);
    await drawn(page);
    if (where.includes("graph")) await page.locator(".uplot").first().waitFor();
    for (const [colorScheme, width] of [["light", 1280], ["dark", 1280], ["light", 390]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 800 });
      await page.waitForTimeout(200);
      found.push(...(await violations(page)).map((line) => `${where} ${colorScheme} ${width}: ${line}`));
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (overflow > 0) found.push(`${where}: ${overflow} pixels wider than ${width}`);
    }
    await page.verify();
  }
  assert.deepEqual(found, []);
});
