// YAML with colours, as text: nothing of it becomes an element but spans of ours.
import type { JSX } from "preact";
import { visible } from "../lib/text";

function value(text: string): JSX.Element | string {
  const trimmed = text.trim();
  if (trimmed === "") return text;
  if (/^(["']).*\1$/.test(trimmed)) return <span class="s">{visible(text)}</span>;
  if (/^-?\d[\d.]*(ms|[smhdwy]|[KMGT]i?B)?$/.test(trimmed) || trimmed === "true" || trimmed === "false") return <span class="n">{visible(text)}</span>;
  return visible(text);
}

export function YamlLine({ text }: { text: string }) {
  if (/^\s*#/.test(text)) return <span class="c">{visible(text)}</span>;
  const found = /^(\s*(?:- )*)([^\s:#"'][^:]*|"[^"]*")(:)(\s.*|)$/.exec(text);
  if (!found) {
    const item = /^(\s*- )(.*)$/.exec(text);
    return item ? <>{item[1]}{value(item[2]!)}</> : <>{visible(text)}</>;
  }
  return <>{visible(found[1])}<span class="k">{visible(found[2])}</span>:{value(found[4]!)}</>;
}

/** Lines that are drawn at most; the rest is text without colours. */
const COLORED_MAX = 5_000;

export function Yaml({ text, label }: { text: string; label: string }) {
  const lines = text.split("\n");
  return (
    <pre tabIndex={0} aria-label={label} role="region">
      {lines.slice(0, COLORED_MAX).map((line, index) => <span key={index}><YamlLine text={line} />{"\n"}</span>)}
      {lines.length > COLORED_MAX ? visible(lines.slice(COLORED_MAX).join("\n"), 2_000_000) : ""}
    </pre>
  );
}
