// The editor of expressions: highlighting, completion, linter and hover. The query page alone loads this file.
//
// It lives in a shadow root: there its style sheets are objects and not elements, which the page's policy allows.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap, startCompletion } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, syntaxHighlighting, syntaxTree } from "@codemirror/language";
import { lintKeymap } from "@codemirror/lint";
import { EditorState, Prec } from "@codemirror/state";
import { EditorView, hoverTooltip, keymap, placeholder } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { PromQLExtension } from "@prometheus-io/codemirror-promql";
import { aggregateOpTerms, functionIdentifierTerms } from "@prometheus-io/codemirror-promql/dist/esm/complete/promql.terms";
import { EqlRegex, EqlSingle, Neq, NeqRegex } from "@prometheus-io/lezer-promql";
import { visible } from "../lib/text";
import { Client, MATCH_OPS } from "./client";
import { exprTree } from "./tree";

export { exprTree };

Object.assign(MATCH_OPS, { [EqlSingle]: "=", [EqlRegex]: "=~", [Neq]: "!=", [NeqRegex]: "!~" });

export interface EditorHandle {
  set(text: string): void;
  insert(text: string): void;
  select(from: number, to: number): void;
  focus(): void;
  destroy(): void;
}

export interface EditorOptions {
  text: string;
  label: string;
  onChange(text: string): void;
  onRun(): void;
  /** An older (-1) or newer (1) expression; null: there is none. */
  onHistory(direction: -1 | 1): string | null;
}

const client = new Client();

const colors = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--code-keyword)" },
  { tag: [tags.function(tags.variableName), tags.function(tags.name)], color: "var(--code-number)" },
  { tag: [tags.labelName, tags.propertyName], color: "var(--code-label)" },
  { tag: tags.string, color: "var(--code-string)" },
  { tag: [tags.number, tags.special(tags.number)], color: "var(--code-number)" },
  { tag: [tags.operator, tags.modifier, tags.operatorKeyword], color: "var(--code-keyword)" },
  { tag: tags.comment, color: "var(--faint)", fontStyle: "italic" },
  { tag: tags.invalid, color: "var(--down)" },
]);

const look = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "transparent", fontSize: "14px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "ui-monospace, monospace", lineHeight: "1.5", maxHeight: "40vh" },
  ".cm-content": { padding: "5px 0", caretColor: "var(--ink)" },
  ".cm-placeholder": { color: "var(--faint)" },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "var(--raised)", outline: "1px solid var(--border)" },
  ".cm-nonmatchingBracket, &.cm-focused .cm-nonmatchingBracket": { backgroundColor: "var(--down-tint)", outline: "1px solid var(--down)" },
  ".cm-tooltip": { backgroundColor: "var(--paper)", color: "var(--ink)", border: "1px solid var(--border)", borderRadius: "6px", maxWidth: "min(560px, 90vw)" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "ui-monospace, monospace", fontSize: "13px", maxHeight: "320px" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li": { padding: "2px 8px", minHeight: "24px" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "var(--faint)", fontStyle: "normal" },
  "li[aria-selected] .cm-completionDetail": { color: "var(--on-accent)" },
  ".cm-completionMatchedText": { textDecoration: "none", fontWeight: "700" },
  ".cm-tooltip.cm-completionInfo": { padding: "6px 10px", whiteSpace: "pre-wrap", overflowWrap: "anywhere" },
  ".cm-diagnostic": { padding: "4px 8px", whiteSpace: "pre-wrap", overflowWrap: "anywhere" },
  ".cm-hover": { padding: "6px 10px", fontSize: "13px", overflowWrap: "anywhere" },
  ".cm-hover code": { fontFamily: "ui-monospace, monospace" },
  ".cm-hover .faint": { color: "var(--faint)" },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--down)" },
  ".cm-lintRange-warning": { backgroundImage: "none", textDecoration: "underline wavy var(--warn)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, ::selection": { backgroundColor: "color-mix(in srgb, var(--accent) 30%, transparent)" },
});

function line(parent: HTMLElement, text: string, name = "div", className = ""): void {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  parent.append(element);
}

/** What the thing under the pointer is. */
const hover = hoverTooltip(async (view, pos, side) => {
  let node = syntaxTree(view.state).resolveInner(pos, side);
  // Functions and operators of aggregation are nodes of their own names within these.
  while (node.parent && !["Identifier", "FunctionIdentifier", "AggregateOp", "LabelName"].includes(node.name) && node.parent.name !== "VectorSelector") {
    if (node.parent.name === "PromQL") return null;
    node = node.parent;
  }
  const text = visible(view.state.sliceDoc(node.from, node.to), 300);
  const box = document.createElement("div");
  box.className = "cm-hover";
  if (node.name === "FunctionIdentifier" || node.name === "AggregateOp") {
    const term = [...functionIdentifierTerms, ...aggregateOpTerms].find((one) => one.label === text.toLowerCase());
    if (!term) return null;
    line(box, `${text}: ${node.name === "AggregateOp" ? "aggregation" : "function"}`, "code");
    line(box, String(term.info ?? ""));
  } else if (node.name === "LabelName") {
    const values = await client.labelValues(text);
    line(box, text, "code");
    line(box, `${values.length}${values.length >= 1_000 ? " or more" : ""} values`, "div", "faint");
  } else if (node.name === "Identifier") {
    const metadata = await client.metadata(text);
    line(box, text, "code");
    line(box, metadata ? `${metadata.type}${metadata.unit ? `, in ${metadata.unit}` : ""}` : "no metadata", "div", "faint");
    if (metadata?.help) line(box, metadata.help);
  } else {
    return null;
  }
  return { pos: node.from, end: node.to, above: true, create: () => ({ dom: box }) };
});

/** Puts an editor into `host`. */
export function createEditor(host: HTMLElement, options: EditorOptions): EditorHandle {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  root.replaceChildren();
  const parent = document.createElement("div");
  root.append(parent);
  const promql = new PromQLExtension().setComplete({ remote: client, maxMetricsMetadata: 10_000 });
  const older = (direction: -1 | 1) => (view: EditorView) => {
    const text = options.onHistory(direction);
    if (text === null) return false;
    view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text }, selection: { anchor: text.length } });
    return true;
  };
  const run = () => {
    options.onRun();
    return true;
  };
  const view = new EditorView({
    parent,
    root,
    state: EditorState.create({
      doc: options.text,
      extensions: [
        Prec.highest(
          keymap.of([
            { key: "Alt-ArrowUp", run: older(-1) },
            { key: "Alt-ArrowDown", run: older(1) },
            { key: "Shift-Enter", run: insertNewlineAndIndent },
            { key: "Mod-Enter", run },
          ]),
        ),
        // Enter takes a completion if one is offered, and runs the expression otherwise.
        Prec.high(keymap.of([...completionKeymap, { key: "Enter", run }])),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...lintKeymap, { key: "Ctrl-Space", run: startCompletion }]),
        history(),
        bracketMatching(),
        closeBrackets(),
        autocompletion({ maxRenderedOptions: 100 }),
        promql.asExtension(),
        hover,
        syntaxHighlighting(colors),
        look,
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": options.label, spellcheck: "false", autocapitalize: "off" }),
        placeholder("Expression, such as sum by (job) (rate(scrape_samples_scraped[5m]))"),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) options.onChange(update.state.doc.toString());
        }),
      ],
    }),
  });
  return {
    set(text) {
      if (text === view.state.doc.toString()) return;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
    },
    insert(text) {
      view.dispatch(view.state.replaceSelection(text));
      view.focus();
    },
    select(from, to) {
      const end = view.state.doc.length;
      view.dispatch({ selection: { anchor: Math.min(from, end), head: Math.min(to, end) }, scrollIntoView: true });
      view.focus();
    },
    focus: () => view.focus(),
    destroy: () => view.destroy(),
  };
}
