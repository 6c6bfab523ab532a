// Numbers, spans and times as this UI writes them, the same on every page.
import { settings } from "./settings";

const UNITS_MS: [string, number][] = [
  ["y", 31_536_000_000],
  ["w", 604_800_000],
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1_000],
  ["ms", 1],
];

/** Milliseconds of a duration as Prometheus writes them (`1h30m`), or of a plain number of seconds; null if it is none. */
export function parseDuration(text: string): number | null {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000);
  if (!/^(\d+(ms|[smhdwy]))+$/.test(trimmed)) return null;
  let total = 0;
  for (const part of trimmed.matchAll(/(\d+)(ms|[smhdwy])/g)) {
    total += Number(part[1]) * UNITS_MS.find(([unit]) => unit === part[2])![1];
  }
  return Number.isSafeInteger(total) ? total : null;
}

/** Milliseconds as a duration of Prometheus. */
export function duration(ms: number): string {
  if (!(ms > 0)) return "0s";
  let rest = Math.round(ms);
  let text = "";
  for (const [unit, size] of UNITS_MS) {
    // As Prometheus does, weeks and years only where nothing is left over.
    if ((unit === "w" || unit === "y") && rest % size !== 0) continue;
    const count = Math.floor(rest / size);
    if (count > 0) text += `${count}${unit}`;
    rest -= count * size;
  }
  return text;
}

/** A measured span for reading: `1.2 s`, `35 ms`, `3 h 20 m`. */
export function span(ms: number): string {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 0.1) return ms === 0 ? "0 ms" : `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${ms.toFixed(0)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms < 7_200_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
  return `${Math.floor(ms / 86_400_000)} d ${Math.floor((ms % 86_400_000) / 3_600_000)} h`;
}

/** A number with a prefix of three figures: `268 k`, `1.36 M`. */
export function short(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e15 || size < 1e-6) return value.toExponential(2);
  const three = (scaled: number) => String(Number(scaled.toPrecision(3)));
  if (size >= 1e12) return `${three(value / 1e12)} T`;
  if (size >= 1e9) return `${three(value / 1e9)} G`;
  if (size >= 1e6) return `${three(value / 1e6)} M`;
  if (size >= 1e4) return `${three(value / 1e3)} k`;
  if (size >= 1e3) return String(Number(value.toPrecision(4)));
  if (size >= 1e-2) return three(value);
  if (size >= 1e-3) return `${three(value * 1e3)} m`;
  return `${three(value * 1e6)} µ`;
}

/** The whole number with groups of three figures. */
export function whole(value: number): string {
  return Number.isFinite(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 6 }) : String(value);
}

/** Bytes: `1.3 MB`. */
export function bytes(value: number): string {
  if (!Number.isFinite(value)) return "–";
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return `${Number(value.toPrecision(3))} B`;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}

/** Year to second of a time, in the zone that is set. */
function fields(ms: number): [number, number, number, number, number, number] {
  const date = new Date(ms);
  return settings.utc
    ? [
        date.getUTCFullYear(),
        date.getUTCMonth() + 1,
        date.getUTCDate(),
        date.getUTCHours(),
        date.getUTCMinutes(),
        date.getUTCSeconds(),
      ]
    : [
        date.getFullYear(),
        date.getMonth() + 1,
        date.getDate(),
        date.getHours(),
        date.getMinutes(),
        date.getSeconds(),
      ];
}

/** `2026-11-30 08:26:14` in the zone of the page. */
export function time(ms: number): string {
  if (!Number.isFinite(ms) || Math.abs(ms) > 8.6e15) return "–";
  const [year, month, day, hour, minute, second] = fields(ms);
  return `${year}-${two(month)}-${two(day)} ${two(hour)}:${two(minute)}:${two(second)}`;
}

/** The same without the day, for today's times. */
export function clock(ms: number): string {
  return time(ms).slice(11);
}

/** The same in UTC, as addresses of Prometheus' pages have it. */
export function timeUtc(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

/** Unix milliseconds of a text in UTC: with or without seconds, with a `T` or a space, or a plain number of seconds. */
export function parseUtc(text: string): number | null {
  const trimmed = text.trim();
  if (/^\d{9,10}(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000);
  const found = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?)?(?:Z|\.000Z)?$/.exec(trimmed);
  if (!found) return null;
  const ms = Date.parse(`${found[1]}T${found[2] ?? "00:00"}${found[3] ?? ":00"}Z`);
  return Number.isNaN(ms) ? null : ms;
}

/** Unix milliseconds of what `time` wrote, or of what a reader typed likewise. */
export function parseTime(text: string): number | null {
  const utc = parseUtc(text);
  if (utc === null || settings.utc || /Z$/.test(text.trim()) || /^\d{9,10}/.test(text.trim())) return utc;
  const date = new Date(utc);
  const local = new Date(
    date.getUTCFullYear(),
    date.getUTCMonth(),
    date.getUTCDate(),
    date.getUTCHours(),
    date.getUTCMinutes(),
    date.getUTCSeconds(),
  );
  return local.getTime();
}

/** Unix milliseconds of an RFC 3339 time of the API; null for "never". */
export function apiTime(text: string | undefined): number | null {
  if (!text || text.startsWith("0001-")) return null;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}

/** The name of the zone that times are shown in. */
export function zone(): string {
  if (settings.utc) return "UTC";
  const minutes = -new Date().getTimezoneOffset();
  const sign = minutes < 0 ? "−" : "+";
  return `UTC${sign}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}
