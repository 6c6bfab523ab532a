// Small parts that all pages are made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, errorText } from "../lib/api";
import { bytes, span, short, time, whole } from "../lib/format";
import { pairs, safeLink, visible, type Labels } from "../lib/text";

/** Foreign text. */
export function Text({ text, max }: { text: unknown; max?: number }) {
  return <>{visible(text, max)}</>;
}

/** Foreign text that may be the address of a web page. */
export function Link({ href, children }: { href: string; children?: ComponentChildren }) {
  const safe = safeLink(href);
  const shown = children ?? visible(href, 500);
  return safe === null ? <>{shown}</> : <a href={safe} rel="noopener noreferrer">{shown}</a>;
}

/** Labels one by one; `onPick` makes them buttons. */
export function LabelSet({ labels, skip, onPick, max = 60 }: {
  labels: Labels;
  skip?: string[];
  onPick?: (name: string, value: string) => void;
  max?: number;
}) {
  const all = pairs(labels).filter(([name]) => !skip?.includes(name));
  const shown = all.slice(0, max);
  return (
    <>
      {shown.map(([name, value]) => {
        const text = `${visible(name, 300)}="${visible(value, 1000)}"`;
        return onPick ? (
          <button type="button" class="label" key={name} onClick={() => onPick(name, value)} title={`only ${name}="${visible(value, 200)}"`}>{text}</button>
        ) : (
          <span class="label" key={name}>{text}</span>
        );
      })}
      {all.length > max && <span class="faint">and {all.length - max} more</span>}
    </>
  );
}

const SHAPES: Record<string, string> = {
  up: "●", down: "✕", unknown: "○", firing: "✕", pending: "◐", inactive: "○", ok: "●", err: "✕", good: "●", warn: "▲",
};
const CLASSES: Record<string, string> = {
  up: "up", down: "down", unknown: "unknown", firing: "down", pending: "warn-text", inactive: "unknown", ok: "up", err: "down", good: "up", warn: "warn-text",
};

/** A state by shape, word and colour. */
export function State({ of, word }: { of: string; word?: string }) {
  return <span class={`state ${CLASSES[of] ?? "unknown"}`}><span aria-hidden="true">{SHAPES[of] ?? "○"} </span>{word ?? of}</span>;
}

export function Num({ value }: { value: number }) {
  return <span title={whole(value)}>{short(value)}</span>;
}

export function Bytes({ value }: { value: number }) {
  return <span title={`${whole(value)} bytes`}>{bytes(value)}</span>;
}

/** A time and its age. */
export function Time({ ms }: { ms: number | null }) {
  return ms === null ? <span class="faint">never</span> : <time dateTime={new Date(ms).toISOString()}>{time(ms)}</time>;
}

export function Age({ ms }: { ms: number | null }) {
  return ms === null ? <span class="faint">never</span> : <span title={time(ms)}>{span(Math.max(0, Date.now() - ms))} ago</span>;
}

/** What part of a limit is used. */
export function Meter({ value, max, label, neutral = false }: { value: number; max: number; label: string; neutral?: boolean }) {
  const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
  // A share of a whole is no limit: it has no colour of its own.
  const kind = neutral ? "" : share >= 1 ? "full" : share >= 0.8 ? "high" : "";
  return (
    <span class={`meter ${kind}`} role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(share * 100)}>
      <span style={{ width: `${(share * 100).toFixed(1)}%` }} />
    </span>
  );
}

/** An error in place of what it is about. A server that is away is told by the banner of the page. */
export function Problem({ error, children }: { error: unknown; children?: ComponentChildren }) {
  if (error === null || error === undefined) return null;
  return <div class="note" role="alert"><strong>{error instanceof ApiError && error.status === 0 ? "No answer: " : "Error: "}</strong>{visible(errorText(error), 3000)} {children}</div>;
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

/** Waits for data: nothing for a moment, then a word. */
export function Waiting() {
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 400);
    return () => clearTimeout(timer);
  }, []);
  return <p class="faint" role="status">{late ? "loading…" : " "}</p>;
}

/** Buttons of which one is chosen. */
export function Segments<T extends string>({ of, value, onChange, label }: {
  of: readonly (readonly [T, string])[];
  value: T;
  onChange: (value: T) => void;
  label: string;
}) {
  return (
    <span class="segments" role="group" aria-label={label}>
      {of.map(([one, text]) => (
        <button type="button" key={one} aria-pressed={one === value} onClick={() => onChange(one)}>{text}</button>
      ))}
    </span>
  );
}

/** Several of many, in a menu. */
export function MultiSelect({ label, of, chosen, onChange }: {
  label: string;
  of: [string, string][];
  chosen: string[];
  onChange: (chosen: string[]) => void;
}) {
  const [search, setSearch] = useState("");
  const details = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const close = (event: Event) => {
      const element = details.current;
      if (!element?.open) return;
      if (event instanceof KeyboardEvent) {
        if (event.key !== "Escape") return;
        element.open = false;
        element.querySelector("summary")?.focus();
      } else if (!element.contains(event.target as Node)) element.open = false;
    };
    addEventListener("pointerdown", close);
    addEventListener("keydown", close);
    return () => {
      removeEventListener("pointerdown", close);
      removeEventListener("keydown", close);
    };
  }, []);
  const shown = of.filter(([value]) => value.toLowerCase().includes(search.toLowerCase())).slice(0, 200);
  return (
    <details class="menu" ref={details}>
      <summary>{label}{chosen.length > 0 ? `: ${chosen.length}` : ""} ▾</summary>
      <div>
        {of.length > 12 && <input type="search" aria-label={`search ${label}`} value={search} onInput={(event) => setSearch(event.currentTarget.value)} />}
        {shown.map(([value, text]) => (
          <label class="inline" key={value}>
            <input
              type="checkbox"
              checked={chosen.includes(value)}
              onChange={(event) => onChange(event.currentTarget.checked ? [...chosen, value] : chosen.filter((one) => one !== value))}
            />
            {visible(text, 200)}
          </label>
        ))}
        {of.length > shown.length && search === "" && <span class="faint">search to see the other {of.length - shown.length}</span>}
        {of.length === 0 && <span class="faint">none</span>}
      </div>
    </details>
  );
}

export function Chip({ text, onRemove }: { text: string; onRemove: () => void }) {
  return <span class="chip">{visible(text, 120)}<button type="button" onClick={onRemove} aria-label={`remove ${visible(text, 120)}`}>✕</button></span>;
}

/** A button that copies a text and says so. */
export function Copy({ text, children }: { text: string | (() => string); children: ComponentChildren }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    const value = typeof text === "string" ? text : text();
    try {
      await navigator.clipboard.writeText(value);
      setDone("copied");
    } catch {
      // Without TLS a browser gives pages no clipboard: the old way.
      const area = document.createElement("textarea");
      area.value = value;
      document.body.append(area);
      area.select();
      setDone(document.execCommand("copy") ? "copied" : "not copied");
      area.remove();
    }
    setTimeout(() => setDone(""), 1500);
  };
  return <button type="button" onClick={() => void copy()}>{done === "" ? children : done}</button>;
}

/** A table of a head and rows. */
export function Table({ head, numbers = [], children, label }: {
  head: ComponentChildren[];
  numbers?: number[];
  children: ComponentChildren;
  label?: string;
}) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label ?? "table"}>
      <table>
        <thead><tr>{head.map((title, index) => <th scope="col" key={index} class={numbers.includes(index) ? "number" : ""}>{title}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** A search field that `/` focuses. */
export function SearchBox({ value, onInput, placeholder, label }: {
  value: string;
  onInput: (value: string) => void;
  placeholder: string;
  label: string;
}) {
  return (
    <input
      type="search"
      data-search
      value={value}
      placeholder={placeholder}
      aria-label={label}
      spellcheck={false}
      autocomplete="off"
      onInput={(event) => onInput(event.currentTarget.value)}
    />
  );
}
