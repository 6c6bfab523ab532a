// Proves that the committed files are what the source builds, that the source has none of the browser's functions that turn
// text into elements or scripts, that types fit, and that unit tests pass.
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, FILES, OUT } from "./build.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const problems = [];

/** What the source must not have: sinks of text, ways around the policy, other hosts. */
const FORBIDDEN = [
  [/\.(innerHTML|outerHTML|srcdoc)\b|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|createContextualFragment|DOMParser/, "turns text into elements"],
  [/\beval\(|new Function\(|setTimeout\(["'`]|javascript:/, "turns text into a script"],
  [/["'`]https?:\/\/(?!\$)/, "an address of another host"],
  [/\bstyle="/, "a style as text, which the policy blocks"],
  [/(href|src|action)="\//, "an absolute link, which leaves the path of a proxy"],
];

/** Largest size of each file, compressed. */
const BUDGETS = { "app.js": 88_000, "editor.js": 160_000, "style.css": 8_000, "theme.js": 1_000 };

async function sources(folder) {
  const entries = await readdir(folder, { withFileTypes: true });
  const lists = entries.map((entry) => (entry.isDirectory() ? sources(path.join(folder, entry.name)) : [path.join(folder, entry.name)]));
  return (await Promise.all(lists)).flat().filter((file) => /\.tsx?$/.test(file));
}

for (const file of await sources(path.join(here, "src"))) {
  const lines = (await readFile(file, "utf8")).split("\n");
  lines.forEach((line, index) => {
    for (const [pattern, reason] of FORBIDDEN) {
      if (pattern.test(line) && !/^\s*(\/\/|\*|\/\*\*)/.test(line)) problems.push(`${path.relative(here, file)}:${index + 1}: ${reason}: ${line.trim()}`);
    }
  });
}

const types = spawnSync(process.execPath, [path.join(here, "node_modules", "typescript", "bin", "tsc"), "--noEmit", "-p", here], { encoding: "utf8" });
if (types.status !== 0) problems.push(`types:\n${types.stdout}${types.stderr}`);

const units = spawnSync(process.execPath, ["--test", path.join(here, "tests", "unit.test.mjs")], { encoding: "utf8" });
if (units.status !== 0) problems.push(`unit tests:\n${units.stdout}${units.stderr}`);

const lock = await readFile(path.join(here, "package-lock.json"), "utf8");
if (/"resolved"/.test(lock)) problems.push("package-lock.json names hosts: npm install with omit-lockfile-registry-resolved");

const out = await mkdtemp(path.join(os.tmpdir(), "ringscrape-ui-"));
try {
  await build(out);
  for (const file of FILES) {
    const [built, committed] = await Promise.all([readFile(path.join(out, file)), readFile(path.join(OUT, file)).catch(() => Buffer.alloc(0))]);
    if (!built.equals(committed)) problems.push(`${path.relative(here, path.join(OUT, file))} is not what the source builds: make ui`);
    const size = gzipSync(built, { level: 9 }).length;
    if (size > (BUDGETS[file] ?? Infinity)) problems.push(`${file} has ${size} bytes compressed, budget ${BUDGETS[file]}`);
  }
} finally {
  await rm(out, { recursive: true, force: true });
}

if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
console.log("the committed files of the web UI are what its source builds");
