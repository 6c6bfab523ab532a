import { useEffect, useState } from "preact/hooks";
import { connection } from "./connection";
import { onSettings, settings } from "./settings";

/** Draws the component again when a setting changes. */
export function useSettings(): typeof settings {
  const [, set] = useState(0);
  useEffect(() => onSettings(() => set((count) => count + 1)), []);
  return settings;
}

export function useConnection(): ReturnType<typeof connection.get> {
  const [, set] = useState(0);
  useEffect(() => connection.subscribe(() => set((count) => count + 1)), []);
  return connection.get();
}

/** How long a reader has to pause before what was typed is written into the address: browsers allow few changes of it. */
const WRITE_MS = 250;
/** What is to be written; null: the address says it already. */
let pending: string | null = null;
let writing = 0;

function flush(): void {
  clearTimeout(writing);
  if (pending !== null) history.replaceState(null, "", location.pathname + pending + location.hash);
  pending = null;
}
addEventListener("pagehide", flush);

/**
 * The parameters of the address, and a way to change some of them; `null` removes one. With `push` the change is a step of the
 * history, without it follows what is typed.
 */
export function useAddress(): [URLSearchParams, (change: Record<string, string | string[] | null>, push?: boolean) => void] {
  const [search, setSearch] = useState(location.search);
  useEffect(() => {
    const listener = () => {
      pending = null;
      setSearch(location.search);
    };
    addEventListener("popstate", listener);
    return () => removeEventListener("popstate", listener);
  }, []);
  const change = (parts: Record<string, string | string[] | null>, push = true) => {
    const params = new URLSearchParams(pending ?? location.search);
    for (const [name, value] of Object.entries(parts)) {
      params.delete(name);
      if (Array.isArray(value)) for (const one of value) params.append(name, one);
      else if (value !== null && value !== "") params.set(name, value);
    }
    const text = params.size > 0 ? `?${params}` : "";
    if (text === (pending ?? location.search)) return;
    if (push) {
      flush();
      history.pushState(null, "", location.pathname + text);
    } else {
      pending = text;
      clearTimeout(writing);
      writing = setTimeout(flush, WRITE_MS);
    }
    setSearch(text);
  };
  return [new URLSearchParams(search), change];
}

/** The value some time after it stopped changing. */
export function useDebounced<T>(value: T, ms: number): T {
  const [shown, setShown] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setShown(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return shown;
}
