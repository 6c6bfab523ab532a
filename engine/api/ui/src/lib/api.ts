// Questions to the HTTP API of the server that this page came from. No request leaves that host.

/** The folder in which all pages lie, without the user and password that the page's address may have: a request must have none. */
export const BASE = location.origin + location.pathname.replace(/[^/]*$/, "");

/** Longest time that a page waits for an answer. */
const TIMEOUT_MS = 130_000;

/** What the server answered instead of data, or that it did not answer. */
export class ApiError extends Error {
  /** HTTP status; 0: no answer at all. */
  status: number;
  kind: string;
  constructor(status: number, kind: string, text: string) {
    super(text);
    this.status = status;
    this.kind = kind;
  }
}

/** A whole successful answer: data with the annotations beside it. */
export interface Answer<T> {
  data: T;
  warnings: string[];
  infos: string[];
  bytes: number;
  ms: number;
}

type Params = Record<string, string | number | string[] | undefined>;

function encode(params: Params): URLSearchParams {
  const encoded = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (Array.isArray(value)) for (const one of value) encoded.append(name, one);
    else if (value !== undefined) encoded.append(name, String(value));
  }
  return encoded;
}

function statusText(status: number): string {
  switch (status) {
    case 401:
      return "the server asks for a user and a password (401)";
    case 403:
      return "the server refuses this (403)";
    case 429:
      return "the server is asked too often (429)";
    case 502:
    case 503:
    case 504:
      return `the server is not available (${status})`;
    default:
      return `the server answered with status ${status}`;
  }
}

export interface CallOptions {
  post?: boolean;
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

/** Sends a request; an answer of any status comes back, none at all is an ApiError with status 0. */
export async function call(path: string, params: Params = {}, options: CallOptions = {}): Promise<Response> {
  const encoded = encode(params);
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  const query = options.post ? "" : encoded.size > 0 ? `?${encoded}` : "";
  try {
    return await fetch(`${BASE}${path}${query}`, {
      method: options.post ? "POST" : "GET",
      body: options.post ? encoded : undefined,
      headers: { Accept: "application/json", ...options.headers },
      cache: "no-store",
      redirect: "error",
      signal,
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const text = timeout.aborted ? "the server did not answer in time" : "the server does not answer";
    throw new ApiError(0, "away", text);
  }
}

/** Asks `/api/v1/…` and returns its data with what stands beside it. */
export async function ask<T>(path: string, params: Params = {}, options: CallOptions = {}): Promise<Answer<T>> {
  const begin = performance.now();
  const response = await call(`api/v1/${path}`, params, options);
  let text: string;
  try {
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "away", "the connection ended within the answer");
  }
  let body: any;
  try {
    body = JSON.parse(text);
  } catch {
    throw new ApiError(response.status, "answer", response.ok ? "the answer is no JSON" : statusText(response.status));
  }
  if (body === null || typeof body !== "object" || body.status !== "success") {
    const kind = typeof body?.errorType === "string" ? body.errorType : "answer";
    const error = typeof body?.error === "string" ? body.error : statusText(response.status);
    throw new ApiError(response.status, kind, error);
  }
  const list = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);
  const ms = performance.now() - begin;
  return { data: body.data, warnings: list(body.warnings), infos: list(body.infos), bytes: text.length, ms };
}

/** The data alone. */
export async function get<T>(path: string, params: Params = {}, options: CallOptions = {}): Promise<T> {
  return (await ask<T>(path, params, options)).data;
}

/** What an error says to a reader. */
export function errorText(error: unknown): string {
  if (error instanceof ApiError) {
    const kind = ["away", "answer", ""].includes(error.kind) ? "" : `${error.kind}: `;
    return kind + error.message;
  }
  return error instanceof Error ? error.message : String(error);
}
