// Whether the server answers, for the banner that every page has.
import { ApiError } from "./api";

interface Connection {
  /** What is wrong now; null: nothing. */
  trouble: ApiError | null;
  /** When the server last answered, in Unix milliseconds. */
  lastSeen: number;
}

const state: Connection = { trouble: null, lastSeen: Date.now() };
const listeners = new Set<() => void>();

export const connection = {
  get: (): Connection => state,
  good() {
    state.lastSeen = Date.now();
    if (state.trouble === null) return;
    state.trouble = null;
    for (const listener of listeners) listener();
  },
  bad(error: unknown) {
    if (!(error instanceof ApiError) || ![0, 401, 429, 502, 503, 504].includes(error.status)) return;
    if (state.trouble?.status === error.status && state.trouble.message === error.message) return;
    state.trouble = error;
    for (const listener of listeners) listener();
  },
  subscribe(listener: () => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};
