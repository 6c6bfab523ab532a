// What the editor asks the server while somebody types. Every question has a limit, and no answer is asked for twice in a
// short time: with ten million series a question without bounds would be felt.
import type { PrometheusClient } from "@prometheus-io/codemirror-promql/dist/esm/client/prometheus";
import type { Matcher } from "@prometheus-io/codemirror-promql/dist/esm/types";
import { get } from "../lib/api";
import { quote, regexQuote, visible } from "../lib/text";

/** Most entries of a list of completions. */
const NAMES_MAX = 10_000;
const VALUES_MAX = 1_000;
/** How long an answer is used again. */
const FRESH_MS = 60_000;
const METADATA_MS = 300_000;
/** Answers kept at once. */
const ANSWERS_MAX = 200;

export interface Metadata {
  type: string;
  help: string;
  unit: string;
}

export class Client implements PrometheusClient {
  private answers = new Map<string, { at: number; answer: Promise<unknown> }>();

  private cached<T>(key: string, fresh: number, ask: () => Promise<T>, otherwise: T): Promise<T> {
    const known = this.answers.get(key);
    if (known && Date.now() - known.at < fresh) return known.answer as Promise<T>;
    if (this.answers.size >= ANSWERS_MAX) this.answers.delete(this.answers.keys().next().value!);
    const answer = ask().catch(() => {
      this.answers.delete(key);
      return otherwise;
    });
    this.answers.set(key, { at: Date.now(), answer });
    return answer;
  }

  /** The range of the questions: what was there in the last hour. */
  private range(): { start: number; end: number } {
    const end = Math.floor(Date.now() / 60_000) * 60 + 60;
    return { start: end - 3_660, end };
  }

  labelNames(metricName?: string): Promise<string[]> {
    const match = metricName ? [`{__name__=${quote(metricName)}}`] : [];
    const ask = () => get<string[]>("labels", { ...this.range(), limit: VALUES_MAX, "match[]": match });
    return this.cached(`names ${metricName ?? ""}`, FRESH_MS, ask, []);
  }

  labelValues(labelName: string, metricName?: string, matchers?: Matcher[]): Promise<string[]> {
    if (labelName === "") return Promise.resolve([]);
    const others = (matchers ?? []).filter((one) => one.name !== labelName && one.value !== "");
    const parts = others.map((one) => `${quote(one.name)}${MATCH_OPS[one.type] ?? "="}${quote(one.value)}`);
    if (metricName) parts.unshift(`__name__=${quote(metricName)}`);
    const match = parts.length > 0 ? [`{${parts.join(",")}}`] : [];
    const path = `label/${encodeURIComponent(labelName)}/values`;
    const ask = () => get<string[]>(path, { ...this.range(), limit: VALUES_MAX, "match[]": match });
    return this.cached(`values ${labelName} ${match}`, FRESH_MS, ask, []);
  }

  metricNames(prefix?: string): Promise<string[]> {
    // The first letters choose a list; what is typed after them is filtered in the browser.
    const head = (prefix ?? "").slice(0, 3);
    const match = head === "" ? [] : [`{__name__=~${quote(`${regexQuote(head)}.*`)}}`];
    const ask = () => get<string[]>("label/__name__/values", { ...this.range(), limit: NAMES_MAX, "match[]": match });
    return this.cached(`metrics ${head}`, FRESH_MS, ask, []);
  }

  async metricMetadata(): Promise<Record<string, Metadata[]>> {
    const ask = () => get<Record<string, Metadata[]>>("metadata", { limit: NAMES_MAX, limit_per_metric: 1 });
    const all = await this.cached("metadata", METADATA_MS, ask, {});
    return all;
  }

  /** Type, help and unit of one metric. */
  async metadata(metric: string): Promise<Metadata | null> {
    const base = metric.replace(/_(bucket|sum|count|total)$/, "");
    for (const name of metric === base ? [metric] : [metric, base]) {
      const ask = () => get<Record<string, Metadata[]>>("metadata", { metric: name, limit: 1, limit_per_metric: 1 });
      const found = (await this.cached(`metadata ${name}`, METADATA_MS, ask, {}))[name]?.[0];
      if (found) return { type: visible(found.type, 40), help: visible(found.help, 600), unit: visible(found.unit, 60) };
    }
    return null;
  }

  series(): Promise<Map<string, string>[]> {
    return Promise.resolve([]);
  }

  flags(): Promise<Record<string, string>> {
    return Promise.resolve({});
  }
}

/** Operators by the numbers of the grammar's nodes; filled by the editor. */
export const MATCH_OPS: Record<number, string> = {};
