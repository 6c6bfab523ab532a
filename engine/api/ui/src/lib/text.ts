// Foreign text is shown as text: control and direction characters become visible, very long texts are cut.

/** Characters that are not drawn, that reorder what stands beside them, or that are half of one. */
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Longest text that is put into a page, in characters. */
export const TEXT_MAX = 20_000;

/** The text as it can be shown safely and honestly. */
export function visible(text: unknown, max = TEXT_MAX): string {
  let shown = typeof text === "string" ? text : String(text ?? "");
  if (shown.length > max) shown = `${shown.slice(0, max)}… (${shown.length} characters)`;
  return shown.replace(INVISIBLE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The address if it leads to a web page, else null: `javascript:` and the like are shown as text. */
export function safeLink(text: string): string | null {
  if (!/^https?:\/\//i.test(text)) return null;
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const LABEL = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/** A string literal of PromQL. */
export function quote(text: string): string {
  const escaped = text.replace(/[\\"\n\r\t\u0000-\u001f]/g, (one) => {
    switch (one) {
      case "\\":
        return "\\\\";
      case '"':
        return '\\"';
      case "\n":
        return "\\n";
      case "\r":
        return "\\r";
      case "\t":
        return "\\t";
      default:
        return `\\x${one.charCodeAt(0).toString(16).padStart(2, "0")}`;
    }
  });
  return `"${escaped}"`;
}

/** A text as a part of a regular expression. */
export function regexQuote(text: string): string {
  return text.replace(/[\\^$.|?*+()[\]{}]/g, "\\$&");
}

export type Labels = Record<string, string>;

/** Own entries only, sorted by name: a label may be called `__proto__`. */
export function pairs(labels: Labels | undefined | null): [string, string][] {
  if (!labels) return [];
  const keys = Object.keys(labels).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return keys.map((key) => [key, String(labels[key])]);
}

/** Labels as a selector: `name{a="b"}`. */
export function selector(labels: Labels): string {
  const all = pairs(labels);
  const name = all.find(([key]) => key === "__name__")?.[1];
  const rest = all.filter(([key]) => key !== "__name__");
  const matchers = rest.map(([key, value]) => `${LABEL.test(key) ? key : quote(key)}=${quote(value)}`);
  if (name !== undefined && !NAME.test(name)) matchers.unshift(quote(name));
  const head = name !== undefined && NAME.test(name) ? name : "";
  return matchers.length > 0 || head === "" ? `${head}{${matchers.join(", ")}}` : head;
}
