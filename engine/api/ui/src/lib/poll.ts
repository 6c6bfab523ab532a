// Refresh: asks again while somebody looks, and waits while nobody does or while the server cannot answer.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api";
import { connection } from "./connection";

export interface Polled<T> {
  data: T | null;
  error: unknown;
  /** When `data` came, in Unix milliseconds. */
  at: number;
  refresh: () => void;
}

/** Longest wait between two attempts at a server that is away. */
const AWAY_MS = 15_000;
/** Shortest one: a server that is down gets at most one request in this time from a page. */
const AWAY_FIRST_MS = 2_500;

/** A reader who selects text, holds the pointer down or has a dialog open does not want the page to change. */
function isBusy(): boolean {
  const selection = getSelection();
  return pointerDown || (selection !== null && !selection.isCollapsed) || document.querySelector("dialog[open]") !== null;
}

let pointerDown = false;
addEventListener("pointerdown", () => (pointerDown = true), { passive: true });
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => (pointerDown = false));

/**
 * Calls `load` at once, whenever `key` changes, and every `interval` milliseconds (0: only once). A failure leaves the last
 * data; a server that is away is asked more and more seldom, and at once again when a reader asks for it.
 */
export function usePoll<T>(key: string, interval: number, load: (signal: AbortSignal) => Promise<T>): Polled<T> {
  const [state, setState] = useState<{ key: string; data: T | null; error: unknown; at: number }>({
    key,
    data: null,
    error: null,
    at: 0,
  });
  const again = useRef<() => void>(() => {});
  const loader = useRef(load);
  loader.current = load;

  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    let failures = 0;
    let running = false;
    const schedule = (ms: number) => {
      clearTimeout(timer);
      timer = setTimeout(tick, ms);
    };
    const run = async () => {
      if (running) return;
      running = true;
      try {
        const data = await loader.current(abort.signal);
        failures = 0;
        connection.good();
        if (!abort.signal.aborted) setState({ key, data, error: null, at: Date.now() });
      } catch (error) {
        if (abort.signal.aborted) return;
        failures += 1;
        connection.bad(error);
        setState((before) => ({ ...before, key, data: before.key === key ? before.data : null, error }));
      } finally {
        running = false;
        if (!abort.signal.aborted) next();
      }
    };
    const next = () => {
      if (failures > 0) schedule(Math.max(interval, Math.min(AWAY_MS, AWAY_FIRST_MS * 2 ** Math.min(failures - 1, 4))));
      else if (interval > 0) schedule(interval);
    };
    const tick = () => {
      if (document.hidden) return;
      if (failures === 0 && isBusy()) return schedule(1_000);
      void run();
    };
    const onVisible = () => {
      if (!document.hidden && (interval > 0 || failures > 0)) schedule(0);
    };
    again.current = () => void run();
    document.addEventListener("visibilitychange", onVisible);
    void run();
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, [key, interval]);

  const mine = state.key === key ? state : { key, data: null, error: null, at: 0 };
  return { data: mine.data, error: mine.error, at: mine.at, refresh: () => again.current() };
}

/** Whether an error says that the server cannot answer now, and may later. */
export function isPassing(error: unknown): boolean {
  return error instanceof ApiError && [0, 401, 429, 502, 503, 504].includes(error.status);
}
