// Ten thousand targets: what is drawn, how fast, and what an open page costs the server.
//   RINGSCRAPE_BIN=target/debug/ringscrape node --test engine/api/ui/tests/scale.test.mjs
//
// Nodes, bytes and CPU of the server are bounded anywhere; times are shown, and bounded where the machine is idle:
//   RINGSCRAPE_UI_TIMES=1
import assert from "node:assert/strict";
import { after, before, test as nodeTest } from "node:test";
import { close, drawn, open, serveTargets, Server, sleep, until } from "./harness.mjs";

const test = (name, run) => nodeTest(name, { timeout: 300_000 }, run);
const TIMED = Boolean(process.env.RINGSCRAPE_UI_TIMES);

const config = (address) => `
global: {scrape_interval: 60s, scrape_timeout: 30s}
scrape_configs:
${["web", "db", "cache", "batch"].map((job) => `  - job_name: ${job}
    file_sd_configs: [{files: [${job}.json]}]
    relabel_configs: [{target_label: __address__, replacement: '${job === "batch" ? "127.0.0.1:1" : address}'}]
`).join("")}
`;
const list = (job, count) => JSON.stringify([...Array(count).keys()].map((index) => ({ targets: [`${job}-${index}.example.org:9100`], labels: { instance: `${job}-${index}.example.org:9100`, rack: `r${index % 40}` } })));

let targets;
let server;
before(async () => {
  const body = [...Array(20).keys()].map((index) => `metric_${index} 1\n`).join("");
  targets = await serveTargets({ "/metrics": body });
  const files = { "prometheus.yml": config(targets.address), "web.json": list("web", 6_000), "db.json": list("db", 2_500), "cache.json": list("cache", 1_000), "batch.json": list("batch", 500) };
  server = await Server.start(files);
  await until("all were scraped", async () => !(await server.api("ringscrape/targets/state")).health.includes("n"), 150_000);
});
after(async () => {
  await close();
  await server?.stop();
  targets?.close();
});

const nodes = (page) => page.evaluate(() => document.querySelectorAll("*").length);
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

test("ten thousand targets: few nodes, little memory, quick keys and frames", async () => {
  const begin = Date.now();
  const page = await open(server, "targets");
  await page.getByText("10,000 of 10,000 targets").waitFor();
  const painted = Date.now() - begin;
  await page.getByText("500/500").or(page.getByText("0/500 up")).first().waitFor();
  assert.ok((await nodes(page)) <= 1_500, `${await nodes(page)} nodes`);
  const keys = await page.evaluate(async () => {
    const input = document.querySelector("[data-search]");
    const times = [];
    for (const text of ["w", "we", "web", "web-1", "web-12", "web-123", "web-12", "web-1", "r3", "rack=r3", "rack=r39", "", "d", "db", "db-9", "x", "", "cache", "cache-1", ""]) {
      const start = performance.now();
      input.value = text;
      input.dispatchEvent(new Event("input", { bubbles: true }));
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      times.push(performance.now() - start);
    }
    return times;
  });
  await page.getByText("10,000 of 10,000 targets").waitFor();
  for (const name of ["web", "db", "cache"]) {
    const button = page.getByRole("button", { name: new RegExp(`[▸▾] ${name}$`) });
    if (await button.count()) await button.click();
  }
  const frames = await page.evaluate(async () => {
    const rows = document.querySelector(".rows");
    const times = [];
    let before = performance.now();
    for (let i = 0; i < 80; i += 1) {
      rows.scrollTop += 1_700;
      await new Promise((done) => requestAnimationFrame(done));
      const now = performance.now();
      times.push(now - before);
      before = now;
    }
    rows.scrollTop = rows.scrollHeight;
    await new Promise((done) => setTimeout(done, 300));
    return times;
  });
  assert.ok((await nodes(page)) <= 1_500, `${await nodes(page)} nodes after scrolling`);
  const last = await page.evaluate(() => Math.max(...[...document.querySelectorAll(".rows [aria-rowindex]")].map((row) => Number(row.getAttribute("aria-rowindex")))));
  assert.equal(String(last), await page.evaluate(() => document.querySelector(".rows").getAttribute("aria-rowcount")), "the last row is the last");
  const heap = await page.evaluate(() => performance.memory.usedJSHeapSize / 1e6);
  console.log(`painted after ${painted} ms; keys: median ${median(keys).toFixed(0)}, most ${Math.max(...keys).toFixed(0)} ms; frames: median ${median(frames).toFixed(0)}, most ${Math.max(...frames).toFixed(0)} ms; heap ${heap.toFixed(0)} MB`);
  assert.ok(heap <= 80, `${heap} MB of heap`);
  assert.ok(!TIMED || (painted <= 1_000 && median(keys) <= 100 && Math.max(...frames) <= 50), "slower than it may be");
  await page.verify();
});

test("ten thousand targets: every page is drawn, and an open one costs the server little", async () => {
  const times = {};
  const id = (await server.api("ringscrape/targets/list")).targets.id[0];
  const page = await open(server, null);
  for (const where of ["overview", "targets", `target?id=${id}`, "query?g0.expr=sum%20by(job)(up)&g0.tab=graph", "alerts", "rules", "service-discovery", "fleet", "tsdb-status", "config", "flags", "status"]) {
    const begin = Date.now();
    await page.goto(server.url(where));
    await page.waitForFunction(() => document.querySelector("#app")?.childElementCount > 0 && !/loading…/.test(document.querySelector("#app").textContent) && document.querySelector("#app").textContent.length > 40);
    times[where.slice(0, 20)] = Date.now() - begin;
    await drawn(page);
    const count = await nodes(page);
    assert.ok(count <= 3_000, `${where}: ${count} nodes`);
  }
  console.log(`drawn after, in ms: ${JSON.stringify(times)}`);
  for (const [where, ms] of Object.entries(times)) assert.ok(!TIMED || ms <= (where === "overview" ? 300 : 1_000), `${where}: ${ms} ms`);
  for (const where of ["targets", "overview"]) {
    await page.goto("about:blank");
    const cpu = async () => {
      const text = await (await fetch(server.url("metrics"))).text();
      return Number(/^process_cpu_seconds_total ([0-9.e+-]+)$/m.exec(text)[1]);
    };
    const seconds = 15;
    const idleFrom = await cpu();
    await sleep(seconds * 1000);
    const idle = (await cpu()) - idleFrom;
    await page.goto(server.url(where));
    await drawn(page);
    await sleep(1_000);
    const from = await cpu();
    await sleep(seconds * 1000);
    const open = (await cpu()) - from;
    console.log(`${where} left open: ${(((open - idle) / seconds) * 100).toFixed(2)} % of a core more than the ${((idle / seconds) * 100).toFixed(2)} % without it`);
    assert.ok((open - idle) / seconds < 0.02, `${where} costs ${open - idle} seconds of CPU in ${seconds}`);
  }
  await page.verify();
});
