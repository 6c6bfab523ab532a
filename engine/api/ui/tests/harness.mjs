// What the tests of the web UI share: a server with its targets, a browser, and what no page may ever do.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const BIN = process.env.RINGSCRAPE_BIN ?? fileURLToPath(new URL("../../../../target/debug/ringscrape", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
/** Longest time that anything may take to happen. */
export const PATIENCE_MS = 30_000;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until `look` returns something. */
export async function until(what, look, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  let last;
  while (Date.now() < end) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    await sleep(100);
  }
  throw new Error(`waited in vain until ${what}${last ? `: ${last}` : ""}`);
}

/** Serves bodies by path; a body may be a function. */
export async function serveTargets(bodies) {
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, "http://target");
    const body = bodies[url.pathname];
    if (body === undefined) return response.writeHead(404).end("no such page");
    const text = typeof body === "function" ? body(url) : body;
    response.writeHead(200, { "Content-Type": "text/plain; version=0.0.4" }).end(text);
  });
  server.keepAliveTimeout = 120_000;
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { address: `127.0.0.1:${server.address().port}`, close: () => { server.closeAllConnections(); server.close(); } };
}

/** A running ringscrape in a folder of its own. */
export class Server {
  static async start(files, flags = []) {
    const folder = await mkdtemp(path.join(os.tmpdir(), "ringscrape-ui-test-"));
    for (const [name, text] of Object.entries(files)) await writeFile(path.join(folder, name), text);
    const server = new Server(folder, flags);
    await server.run("127.0.0.1:0");
    return server;
  }

  constructor(folder, flags) {
    this.folder = folder;
    this.flags = flags;
    this.log = "";
  }

  async run(address) {
    this.child = spawn(
      BIN,
      [`--config.file=${this.folder}/prometheus.yml`, `--storage.tsdb.path=${this.folder}/data`, `--web.listen-address=${address}`, ...this.flags],
      { cwd: this.folder, stdio: ["ignore", "ignore", "pipe"] },
    );
    this.ended = new Promise((done) => this.child.on("exit", done));
    this.log = "";
    this.child.stderr.on("data", (data) => (this.log += data));
    const found = await until("the server listens", () => {
      if (this.child.exitCode !== null) return ["", "", "ended"];
      return /listening on (https?):\/\/([0-9.:]+)/.exec(this.log);
    });
    assert.notEqual(found[2], "ended", this.log);
    this.address = found[2];
    this.prefix = this.flags.map((flag) => /^--web.external-url=(\/.*)$/.exec(flag)?.[1]).find((one) => one) ?? "";
    await until("the server is ready", async () => (await fetch(`${this.url("-/ready")}`)).ok);
  }

  url(page) {
    return `http://${this.address}${this.prefix.replace(/\/$/, "")}/${page}`;
  }

  async api(question) {
    const answer = await (await fetch(this.url(`api/v1/${question}`))).json();
    assert.equal(answer.status, "success", `${question}: ${JSON.stringify(answer)}`);
    return answer.data;
  }

  write(name, text) {
    return writeFile(path.join(this.folder, name), text);
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.ended;
  }

  async stop() {
    await this.kill("SIGKILL");
    await rm(this.folder, { recursive: true, force: true });
  }
}

let browser;
export async function launch() {
  browser ??= await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-precise-memory-info"] });
  return browser;
}
export async function close() {
  await browser?.close();
  browser = undefined;
}

/**
 * A page that fails its test for any message in the console, error, dialog, request to another host or violation of the
 * policy. `expected` are patterns of console messages that the test provokes.
 */
export async function open(server, where, { scheme = "light", width = 1280, height = 800, expected = [], context: options = {} } = {}) {
  const context = await (await launch()).newContext({ colorScheme: scheme, viewport: { width, height }, reducedMotion: "reduce", timezoneId: "Europe/Berlin", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const problems = [];
  const isExpected = (text) => expected.some((pattern) => pattern.test(text));
  page.on("console", (message) => {
    if (!isExpected(message.text()) && ["error", "warning"].includes(message.type())) problems.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`error: ${error.stack ?? error}`));
  page.on("dialog", async (dialog) => {
    problems.push(`dialog: ${dialog.message()}`);
    await dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`http://${server.address}/`) && !url.startsWith("data:,")) problems.push(`request: ${url}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber} ${event.sample}`));
  });
  // While the front end is worked on: what was built last, instead of what the server was built with.
  if (process.env.UI_FROM_DISK) {
    await page.route("**/assets/*", (route) => {
      const [, name, ending] = /assets\/([a-z]+)-[0-9a-f]+\.([a-z]+)$/.exec(route.request().url());
      return route.fulfill({ path: fileURLToPath(new URL(`../../assets/ui/${name}.${ending}`, import.meta.url)) });
    });
  }
  page.problems = problems;
  /** To be called at the end of each test. */
  page.verify = async () => {
    problems.push(...(await page.evaluate(() => window.violations)));
    if (await page.evaluate(() => "hit" in window)) problems.push("a script from outside ran");
    assert.deepEqual(problems, []);
    await context.close();
  };
  if (where !== null) await page.goto(server.url(where));
  return page;
}

/** Waits until the page has drawn something of its own. */
export async function drawn(page) {
  await page.waitForFunction(() => document.querySelector("#app")?.childElementCount > 0 && !/loading…/.test(document.querySelector("#app").textContent));
  await page.waitForTimeout(150);
}
