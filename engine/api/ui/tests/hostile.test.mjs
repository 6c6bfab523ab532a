// Texts that attack, in everything that comes from outside: names, labels, values, help, errors, annotations, addresses and
// the configuration. No page runs, loads or breaks.
//   RINGSCRAPE_BIN=target/debug/ringscrape node --test engine/api/ui/tests/hostile.test.mjs
import assert from "node:assert/strict";
import http from "node:http";
import { after, before, test as nodeTest } from "node:test";
import { close, drawn, open, Server, until } from "./harness.mjs";
import { escaped, PAYLOADS } from "./hostile.mjs";

const test = (name, run) => nodeTest(name, { timeout: 300_000 }, run);

const json = JSON.stringify;
/** YAML's escapes are those of JSON, but for what is no character in YAML. */
const yaml = (text) => json(text);
const plain = PAYLOADS.filter((text) => !/[\r\n\t]/.test(text) && text.length < 500);

function metrics() {
  const lines = [];
  PAYLOADS.forEach((payload, index) => {
    const text = escaped(payload);
    lines.push(`# HELP evil_${index}_total ${payload.replace(/\\/g, "\\\\").replace(/[\r\n]/g, " ")}`, `# TYPE evil_${index}_total counter`);
    lines.push(`evil_${index}_total{value="${text}",le="${text}"} ${index}`);
    lines.push(`evil{index="${index}",value="${text}"} ${index}`);
    if (index < 50) lines.push(`{"${text}",kind="name"} ${index}`, `named{"${text}"="name"} ${index}`);
  });
  return `${lines.join("\n")}\n`;
}

const config = (address) => `
global:
  scrape_interval: 2s
  evaluation_interval: 1s
  external_labels: {evil: ${yaml(PAYLOADS[0])}}
rule_files: [rules.yml]
scrape_configs:
${plain.slice(0, 12).map((payload) => `  - job_name: ${yaml(payload)}\n    static_configs: [{targets: ['127.0.0.1:1'], labels: {evil: ${yaml(payload)}}}]\n`).join("")}
  - job_name: evil
    honor_labels: true
    static_configs:
${plain.map((payload, index) => `      - {targets: ['${address}'], labels: {evil: ${yaml(payload)}, __param_i: '${index}', instance: ${yaml(`i ${payload}`)}}}`).join("\n")}
  - job_name: dropped
    static_configs: [{targets: ${json(plain.slice(0, 30).map((payload, index) => `h${index}:1`))}, labels: {evil: ${yaml(PAYLOADS[1])}}}]
    relabel_configs: [{source_labels: [evil], regex: '.*', action: drop}]
  - job_name: refused
    metrics_path: /refused
    static_configs: [{targets: ['${address}'], labels: {evil: ${yaml(PAYLOADS[2])}}}]
  - job_name: status
    metrics_path: /status
    static_configs: [{targets: ['${address}'], labels: {evil: ${yaml(PAYLOADS[3])}}}]
`;
const rules = () => `
groups:
${plain.filter((payload) => !payload.includes("{{")).map((payload) => `  - name: ${yaml(payload)}
    rules:
      - alert: ${yaml(payload)}
        expr: vector(1)
        labels: {evil: ${yaml(payload)}}
        annotations: {evil: ${yaml(payload)}, link: ${yaml(`http://127.0.0.1:1/${payload}`)}, template: '{{ $labels.evil }}'}
`).join("")}
`;

let target;
let server;
before(async () => {
  target = http.createServer((request, response) => {
    if (request.url.startsWith("/refused")) return response.writeHead(200, { "Content-Type": "text/plain" }).end(`${PAYLOADS[0]}\n`);
    if (request.url.startsWith("/status")) return response.writeHead(500, PAYLOADS[1]).end("no");
    response.writeHead(200, { "Content-Type": "text/plain; version=1.0.0; escaping=allow-utf-8" }).end(metrics());
  });
  await new Promise((done) => target.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${target.address().port}`;
  server = await Server.start({ "prometheus.yml": config(address), "rules.yml": rules() }, ["--web.enable-lifecycle"]);
  await until("the hostile samples are there", async () => (await server.api("query?query=count(evil)")).result[0]?.value[1] > 50);
});
after(async () => {
  await close();
  await server?.stop();
  target?.closeAllConnections();
  target?.close();
});

/** Pages, with what has to be on them as text. */
const PAGES = [
  ["overview", ""],
  ["targets?group=job", PAYLOADS[0]],
  ["targets?search=evil", PAYLOADS[1]],
  ["targets?health=down", ""],
  ["query?g0.expr=evil&g0.tab=table", PAYLOADS[0]],
  ["query?g0.expr=evil&g0.tab=graph&g0.show_tree=1", PAYLOADS[1]],
  ["query?g0.expr=%7B__name__%3D~%22.%2B%22%7D&g0.tab=table", ""],
  ["query?g0.expr=%7B__name__%3D~%22evil_.*%22%7D&g0.tab=graph&g0.display_mode=heatmap", ""],
  ["alerts", PAYLOADS[0]],
  ["alerts?state=firing", PAYLOADS[1]],
  ["rules", PAYLOADS[2]],
  ["service-discovery", PAYLOADS[0]],
  ["service-discovery?state=relabelling", PAYLOADS[1]],
  ["fleet", ""],
  ["tsdb-status?limit=1000", PAYLOADS[0]],
  ["config", "window.hit=1"],
  ["config?view=file", ""],
  ["flags", ""],
  ["status", ""],
];

async function poke(page) {
  for (const name of ["explain", "show those"]) {
    const button = page.getByRole("button", { name }).first();
    if (await button.count()) await button.click();
  }
  await page.evaluate(() => document.querySelectorAll("details:not([open]) > summary").forEach((one, index) => index < 60 && one.click()));
  const chart = page.locator(".u-over").first();
  if (await chart.count()) await chart.hover();
  const heat = page.locator("canvas.heat").first();
  if (await heat.count()) await heat.hover();
  await page.waitForTimeout(100);
}

async function look(page, where, text) {
  await drawn(page);
  await poke(page);
  if (text !== "") {
    const shown = await page.evaluate(() => document.querySelector("main").textContent);
    assert.ok(shown.includes(text), `${where} does not show ${text}`);
  }
  const state = await page.evaluate(() => ({
    hit: "hit" in window,
    overflow: Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth),
    strange: [...document.querySelectorAll("script:not([src]), iframe, object, embed, base, link:not([rel=stylesheet]):not([rel=icon]), style, img, video, audio, marquee, math, form[action]")].map((one) => one.outerHTML.slice(0, 200)),
    handlers: [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes].filter((attribute) => /^on/i.test(attribute.name) || /^\s*javascript:/i.test(attribute.value)).filter((attribute) => ["href", "src", "action"].includes(attribute.name) || /^on/i.test(attribute.name)).map((attribute) => `${one.tagName} ${attribute.name}=${attribute.value.slice(0, 80)}`)),
  }));
  assert.deepEqual(state, { hit: false, overflow: 0, strange: [], handlers: [] }, where);
}

for (const policy of ["with the policy", "without any policy"]) {
  test(`pages of hostile texts, ${policy}`, async () => {
    const page = await open(server, null, { expected: [/status of (400|404|422|500)/] });
    if (policy !== "with the policy") {
      await page.route(
        (url) => !url.pathname.includes("/api/") && !url.pathname.includes("/assets/"),
        async (route) => {
          const answer = await route.fetch();
          const headers = { ...answer.headers() };
          delete headers["content-security-policy"];
          await route.fulfill({ response: answer, headers });
        },
      );
    }
    const id = (await server.api("ringscrape/targets/list")).targets.id.at(-3);
    await until("one is refused", async () => (await server.api("targets?state=active&scrapePool=refused")).activeTargets[0].lastError !== "");
    for (const [where, text] of [...PAGES, [`target?id=${id}`, ""]]) {
      await page.goto(server.url(where));
      await look(page, where, text);
    }
    const list = await server.api("ringscrape/targets/list");
    const index = list.targets.pool.findIndex((pool) => list.pools[pool].name === "refused");
    await page.goto(server.url(`target?id=${list.targets.id[index]}`));
    await look(page, "refused", PAYLOADS[0]);
    await page.verify();
  });
}

test("hostile texts in addresses", async () => {
  const page = await open(server, null, { expected: [/status of (400|404|422|500)/] });
  const where = [
    (text) => `query?g0.expr=${text}&g0.tab=table`,
    (text) => `query?g0.expr=${text}&g0.tab=graph&g0.show_tree=1&g0.range_input=${text}&g0.end_input=${text}&g0.res_step=${text}`,
    (text) => `targets?search=${text}&health=${text}&pool=${text}&reason=${text}&group=${text}&sort=${text}`,
    (text) => `target?id=${text}&range=${text}`,
    (text) => `alerts?search=${text}&state=${text}`,
    (text) => `rules?search=${text}&health=${text}&file=${text}`,
    (text) => `service-discovery?search=${text}&pool=${text}&state=${text}&offset=${text}`,
    (text) => `tsdb-status?limit=${text}&search=${text}`,
    (text) => `config?search=${text}&view=${text}`,
    (text) => `flags?search=${text}`,
    (text) => `overview?range=${text}#${text}`,
  ];
  // Each payload on one page, so that each page gets several.
  for (const [index, payload] of PAYLOADS.entries()) {
    const address = where[index % where.length](encodeURIComponent(payload));
    await page.goto(server.url(address));
    await look(page, address.slice(0, 200), "");
  }
  await page.verify();
});

test("hostile texts in completion, hover and explorer", async () => {
  const page = await open(server, "query", { expected: [/status of (400|404|422|500)/] });
  const editor = page.locator(".editor .cm-content");
  await editor.click();
  await page.keyboard.type("evil_", { delay: 10 });
  await page.locator(".cm-tooltip-autocomplete li").first().waitFor();
  for (let i = 0; i < 8; i += 1) await page.keyboard.press("ArrowDown");
  await page.locator(".cm-completionInfo").waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.type('evil{value="', { delay: 10 });
  await page.locator(".cm-tooltip-autocomplete li").first().waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.insertText("evil_1_total");
  await page.locator(".cm-line").hover({ position: { x: 40, y: 10 } });
  await page.locator(".cm-hover").waitFor();
  await page.getByRole("button", { name: "Explore" }).click();
  await page.getByLabel("search metrics").fill("evil");
  await page.getByRole("button", { name: "evil", exact: true }).click();
  await page.getByRole("region", { name: "labels" }).getByRole("button").first().waitFor();
  await look(page, "explorer", PAYLOADS[0]);
  await page.verify();
});
