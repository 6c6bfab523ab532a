// Builds the files that the server serves. The same source gives the same bytes.
//   node build.mjs [--out FOLDER] [--watch]
import * as esbuild from "esbuild";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const argument = (name) => process.argv[process.argv.indexOf(name) + 1];

export const OUT = path.join(here, "..", "assets", "ui");

/** The files that a build makes. `theme.js` runs before the page is drawn; `editor.js` is loaded by the query page alone. */
export const FILES = ["app.js", "editor.js", "theme.js", "style.css", "licenses.txt"];

function options(out) {
  return {
    absWorkingDir: here,
    entryPoints: {
      app: "src/app.tsx",
      editor: "src/editor/editor.ts",
      theme: "src/theme.ts",
      style: "src/style.css",
    },
    outdir: out,
    bundle: true,
    format: "esm",
    target: ["chrome111", "firefox113", "safari16.4"],
    minify: true,
    legalComments: "none",
    charset: "utf8",
    jsx: "automatic",
    jsxImportSource: "preact",
    define: { "process.env.NODE_ENV": '"production"' },
    metafile: true,
    logLevel: "warning",
  };
}

/** Licences of the packages whose code is in the bundle, sorted by name. */
async function licenses(metafile) {
  const packages = new Set();
  for (const input of Object.keys(metafile.inputs)) {
    const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
  let text = "Code of these packages is part of the files beside this one.\n";
  for (const name of [...packages].sort()) {
    const folder = path.join(here, "node_modules", name);
    const about = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[sc]e/i.test(entry));
    text += `\n---- ${name} ${about.version} (${about.license})\n\n`;
    text += file ? (await readFile(path.join(folder, file), "utf8")).trim() + "\n" : "";
  }
  // Addresses in licences are of no use here, and some of them change.
  return text.replace(/\r/g, "");
}

export async function build(out) {
  await mkdir(out, { recursive: true });
  const result = await esbuild.build(options(out));
  await writeFile(path.join(out, "licenses.txt"), await licenses(result.metafile));
  return result.metafile;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const out = process.argv.includes("--out") ? path.resolve(argument("--out")) : OUT;
  if (process.argv.includes("--watch")) {
    await (await esbuild.context(options(out))).watch();
  } else {
    const metafile = await build(out);
    if (process.argv.includes("--sizes")) console.log(await esbuild.analyzeMetafile(metafile));
  }
}
