// Pictures of all pages, light and dark, for docs/pictures: node tests/pictures.mjs
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { close, drawn, open, serveTargets, Server, sleep } from "./harness.mjs";

const OUT = process.env.PICTURES ?? fileURLToPath(new URL("../../../../docs/pictures", import.meta.url));
await mkdir(OUT, { recursive: true });
let count = 0;
const wave = (index) => Math.max(0, Math.sin(count / 9 + index) + 1.2);
const counters = new Map();
const metrics = (url) => {
  const own = Number(url.searchParams.get("i") ?? 0);
  count += 0.02;
  const lines = ["# HELP http_requests_total Requests that were answered.", "# TYPE http_requests_total counter"];
  const add = (key, by) => counters.set(key, (counters.get(key) ?? 0) + by).get(key);
  for (const [index, path] of ["/orders", "/cart", "/search", "/login"].entries()) {
    lines.push(`http_requests_total{uri="${path}",code="200"} ${add(`${own}${path}`, 100 * wave(index))}`);
    lines.push(`http_requests_total{uri="${path}",code="500"} ${add(`${own}${path}5`, 2 * wave(index + 2))}`);
  }
  lines.push("# TYPE http_request_duration_seconds histogram");
  let sum = 0;
  for (const [index, le] of ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"].entries()) {
    sum += add(`${own}b${index}`, 40 * Math.exp(-((index - 4 - 2 * Math.sin(count / 5)) ** 2) / 4));
    lines.push(`http_request_duration_seconds_bucket{le="${le}"} ${sum}`);
  }
  return `${lines.join("\n")}\n`;
};
const targets = await serveTargets({ "/metrics": metrics });
const list = (job, length, address) => JSON.stringify([...Array(length).keys()].map((index) => ({ targets: [address], labels: { instance: `${job}-${index}.example.org:9100`, rack: `r${index % 4}`, __param_i: String(index) } })));
const server = await Server.start(
  {
    "prometheus.yml": `
global: {scrape_interval: 1s, evaluation_interval: 1s, external_labels: {region: eu1, replica: scrape-3}}
rule_files: [rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:1']}]}]}
scrape_configs:
  - {job_name: shop, sample_limit: 30, file_sd_configs: [{files: [shop.json]}], relabel_configs: [{source_labels: [rack], regex: 'r(.*)', target_label: row, replacement: 'row-$1'}, {source_labels: [absent], regex: x, target_label: never}]}
  - {job_name: node, file_sd_configs: [{files: [node.json]}]}
  - {job_name: dead, file_sd_configs: [{files: [dead.json]}]}
`,
    "shop.json": list("shop", 24, targets.address),
    "node.json": list("node", 12, targets.address),
    "dead.json": list("dead", 2, "127.0.0.1:1"),
    "rules.yml": `
groups:
  - name: shop
    rules:
      - {record: 'uri:http_requests:rate', expr: 'sum by (uri) (rate(http_requests_total[30s]))'}
      - {alert: TargetDown, expr: 'up == 0', labels: {severity: page}, annotations: {summary: '{{ $labels.instance }} is down', runbook: 'http://runbooks.example/down'}}
      - {alert: ErrorsHigh, expr: 'sum(rate(http_requests_total{code="500"}[30s])) > 1', for: 1h, annotations: {summary: 'Too many errors'}}
`,
  },
  ["--web.enable-lifecycle"],
);
await sleep(Number(process.env.WARM_MS ?? 90_000));
const id = (await server.api("ringscrape/targets/list")).targets.id.at(-1);
const enc = encodeURIComponent;
const PAGES = {
  overview: "overview",
  targets: "targets",
  target: `target?id=${id}`,
  query: `query?g0.expr=${enc("sum by (uri) (rate(http_requests_total[30s]))")}&g0.tab=graph&g0.range_input=2m&g0.show_tree=1`,
  heatmap: `query?g0.expr=${enc("sum by (le) (rate(http_request_duration_seconds_bucket[15s]))")}&g0.tab=graph&g0.range_input=2m&g0.display_mode=heatmap`,
  alerts: "alerts",
  rules: "rules",
  discovery: "service-discovery",
  fleet: "fleet",
  storage: "tsdb-status",
  config: "config",
  flags: "flags",
  status: "status",
};
for (const scheme of ["light", "dark"]) {
  for (const [name, where] of Object.entries(PAGES)) {
    const page = await open(server, where, { scheme, width: 1360, height: 860 });
    await drawn(page);
    await sleep(1_500);
    if (name === "query") await page.locator(".u-over").hover().catch(() => {});
    await sleep(300);
    await page.screenshot({ path: `${OUT}/${name}-${scheme}.jpg`, type: "jpeg", quality: 72 });
    await page.context().close();
  }
}
const phone = await open(server, "targets", { width: 390, height: 800 });
await drawn(phone);
await phone.screenshot({ path: `${OUT}/targets-phone.jpg`, type: "jpeg", quality: 72 });
await close();
await server.stop();
targets.close();
process.exit(0);
