// Answers of queries, brought into the shape that tables and charts need.
import type { Band, HeatData } from "../components/heatmap";
import { pairs, selector, type Labels } from "./text";

export type Point = [number, string];
/** Boundary rule, lower bound, upper bound, count. */
export type Bucket = [number, string, string, string];
export interface Histogram {
  count: string;
  sum: string;
  buckets?: Bucket[];
}
export interface Series {
  metric: Labels;
  value?: Point;
  values?: Point[];
  histogram?: [number, Histogram];
  histograms?: [number, Histogram][];
}
export interface Result {
  resultType: "vector" | "matrix" | "scalar" | "string";
  result: any;
  stats?: { samples?: { totalQueryableSamples?: number; peakSamples?: number }; timings?: Record<string, number> };
}

/** Most series that a graph draws. */
export const SERIES_MAX = 500;

export function number(text: string): number {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

/** A value that can be drawn; null for what cannot. */
function drawable(text: string): number | null {
  const value = number(text);
  return Number.isFinite(value) ? value : null;
}

export function grid(startMs: number, endMs: number, stepMs: number): number[] {
  const times: number[] = [];
  for (let at = startMs; at <= endMs; at += stepMs) times.push(at / 1000);
  return times;
}

/** Values of a series at the times of a grid. */
export function onGrid(points: Point[], times: number[], stepMs: number): (number | null)[] {
  const values = new Array<number | null>(times.length).fill(null);
  const first = times[0] ?? 0;
  for (const [at, value] of points) {
    const index = Math.round(((at - first) * 1000) / stepMs);
    if (index >= 0 && index < values.length) values[index] = drawable(value);
  }
  return values;
}

/** Series without what is the same in all of them, for a legend; the whole name for one alone. */
export function legendNames(series: Series[]): string[] {
  if (series.length <= 1) return series.map((one) => selector(one.metric));
  return series.map((one) => selector(one.metric));
}

function bandKey(bucket: Bucket): string {
  return `${bucket[1]} ${bucket[2]}`;
}

function nativeHeat(one: Series, times: number[], stepMs: number): HeatData {
  const bands = new Map<string, Band>();
  for (const [, histogram] of one.histograms ?? []) {
    for (const bucket of histogram.buckets ?? []) {
      bands.set(bandKey(bucket), { low: number(bucket[1]), high: number(bucket[2]) });
    }
  }
  const sorted = [...bands].sort((a, b) => a[1].low - b[1].low || a[1].high - b[1].high);
  const rows = new Map(sorted.map(([key], index) => [key, index]));
  const counts = sorted.map(() => new Array<number | null>(times.length).fill(null));
  for (const [at, histogram] of one.histograms ?? []) {
    const column = Math.round(((at - (times[0] ?? 0)) * 1000) / stepMs);
    if (column < 0 || column >= times.length) continue;
    for (const bucket of histogram.buckets ?? []) counts[rows.get(bandKey(bucket))!]![column] = number(bucket[3]);
  }
  return { label: selector(one.metric), times, bands: sorted.map(([, band]) => band), counts };
}

/** Classic buckets: differences of neighbours, for each set of the other labels. */
function classicHeat(series: Series[], times: number[], stepMs: number): HeatData[] {
  const groups = new Map<string, { le: number; values: (number | null)[] }[]>();
  for (const one of series) {
    const { le, ...rest } = one.metric;
    const key = selector(rest as Labels);
    const group = groups.get(key) ?? [];
    group.push({ le: number(le ?? ""), values: onGrid(one.values ?? [], times, stepMs) });
    groups.set(key, group);
  }
  return [...groups].map(([label, group]) => {
    group.sort((a, b) => a.le - b.le);
    const counts = group.map((one, row) =>
      one.values.map((value, column) => {
        const below = row === 0 ? 0 : (group[row - 1]!.values[column] ?? 0);
        return value === null ? null : Math.max(0, value - below);
      }),
    );
    const bands = group.map((one, row) => ({ low: row === 0 ? Math.min(0, one.le) : group[row - 1]!.le, high: one.le }));
    return { label, times, bands, counts };
  });
}

/** Heat maps at most of one answer. */
const HEATMAPS_MAX = 12;

/** Heat maps of an answer; none if it has no histograms. */
export function heatmaps(series: Series[], times: number[], stepMs: number): HeatData[] {
  const native = series.filter((one) => (one.histograms ?? []).length > 0);
  if (native.length > 0) return native.slice(0, HEATMAPS_MAX).map((one) => nativeHeat(one, times, stepMs));
  const classic = series.filter((one) => Object.hasOwn(one.metric, "le"));
  return classic.length > 0 ? classicHeat(classic, times, stepMs).slice(0, HEATMAPS_MAX) : [];
}

/** Whether all series are buckets, so that a heat map says more than lines. */
export function isHistogram(series: Series[]): boolean {
  return series.length > 0 && series.every((one) => (one.histograms ?? []).length > 0 || (Object.hasOwn(one.metric, "le") && series.length > 1));
}

/** A result as CSV: labels, time, value. */
export function csv(series: Series[]): string {
  const names = [...new Set(series.flatMap((one) => pairs(one.metric).map(([name]) => name)))].sort();
  const cell = (text: string) => {
    // A spreadsheet would carry out what begins like a formula.
    const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const lines = [[...names, "timestamp", "value"].map(cell).join(",")];
  for (const one of series) {
    const labels = names.map((name) => (Object.hasOwn(one.metric, name) ? one.metric[name]! : ""));
    for (const [at, value] of one.value ? [one.value] : (one.values ?? [])) lines.push([...labels, String(at), value].map(cell).join(","));
  }
  return lines.join("\n");
}
