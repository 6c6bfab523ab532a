// All targets in columns, and what can be done with them without asking the server: find, sort, group.
import { call, get } from "./api";
import { pairs, type Labels } from "./text";

export interface PoolRow {
  name: string;
  interval: number;
  timeout: number;
  sampleLimit: number;
  bodySizeLimit: number;
  targetLimit: number;
  labels: Labels;
  active: number;
  discovered: number;
  dropped: number;
  duplicates: number;
  leaving: number;
  others: number;
  failed: number;
  failedTargets: { labels: Labels; error: string }[];
  sourceErrors: string[];
}

interface RawList {
  generation: string;
  pools: PoolRow[];
  targets: { id: string[]; pool: number[]; url: string[]; labels: string[][]; intervals: Record<string, number> };
}

export interface TargetList {
  generation: string;
  pools: PoolRow[];
  count: number;
  id: string[];
  pool: number[];
  url: string[];
  own: [string, string][][];
  intervals: Record<string, number>;
  /** What the search looks through, in lower case. */
  haystack: string[];
}

export interface States {
  generation: string;
  now: number;
  health: string;
  outcomes: string[];
  outcomeCounts: Record<string, number>;
  reason: Record<string, number>;
  reasons: string[];
  errors: Record<string, string>;
  at: number[];
  since: number[];
  took: number[];
  samples: number[];
  samplesKept: Record<string, number>;
  bytes: number[];
  missed: Record<string, number>;
  core: number[];
}

export interface Targets {
  list: TargetList;
  states: States;
}

function readList(raw: RawList): TargetList {
  const { id, pool, url, labels, intervals } = raw.targets;
  const own = labels.map((flat) => {
    const list: [string, string][] = [];
    for (let i = 0; i + 1 < flat.length; i += 2) list.push([flat[i]!, flat[i + 1]!]);
    return list;
  });
  const common = raw.pools.map((one) => pairs(one.labels).map(([name, value]) => `${name}=${value}`).join("\n"));
  const haystack = own.map((list, index) => `${url[index]}\n${list.map(([name, value]) => `${name}=${value}`).join("\n")}\n${common[pool[index]!]}`.toLowerCase());
  return { generation: raw.generation, pools: raw.pools, count: id.length, id, pool, url, own, intervals, haystack };
}

/** Asks for the list only when it is another one than before. */
export async function loadTargets(before: TargetList | null, signal: AbortSignal): Promise<Targets> {
  let list = before;
  for (let round = 0; round < 3; round += 1) {
    const states = await get<States>("ringscrape/targets/state", {}, { signal });
    if (list !== null && list.generation === states.generation) return { list, states };
    const headers: Record<string, string> = list === null ? {} : { "If-None-Match": `"${list.generation}"` };
    const response = await call("api/v1/ringscrape/targets/list", {}, { signal, headers });
    if (response.status === 304 && list !== null) return { list, states };
    const body = await response.json();
    if (body?.status !== "success") throw new Error(String(body?.error ?? "no list of targets"));
    list = readList(body.data as RawList);
    if (list.generation === states.generation) return { list, states };
  }
  throw new Error("the targets change faster than they can be listed");
}

export const HEALTHS = { u: "up", d: "down", n: "unknown" } as const;
export type Health = "up" | "down" | "unknown";

export function healthOf(states: States, index: number): Health {
  return HEALTHS[states.health[index] as "u"] ?? "unknown";
}

export function reasonOf(states: States, index: number): string {
  const reason = states.reason[index];
  return reason === undefined ? "" : (states.reasons[reason] ?? "");
}

/** All labels of a target. */
export function labelsOf(list: TargetList, index: number): Labels {
  const labels: Labels = Object.assign(Object.create(null), list.pools[list.pool[index]!]!.labels);
  for (const [name, value] of list.own[index]!) labels[name] = value;
  return labels;
}

export function labelOf(list: TargetList, index: number, name: string): string {
  const own = list.own[index]!.find(([known]) => known === name);
  if (own) return own[1];
  const common = list.pools[list.pool[index]!]!.labels;
  return Object.hasOwn(common, name) ? common[name]! : "";
}

export interface Filter {
  health: string[];
  pool: string[];
  reason: string[];
  search: string;
  /** `flapping`, `slow` or `near`. */
  special: string[];
}

/** Outcomes that changed from one scrape to the next. */
export function flaps(states: States, index: number): number {
  const count = Math.min(64, states.outcomeCounts[index] ?? 64);
  const bits = BigInt(`0x${states.outcomes[index] || "0"}`);
  let changes = 0;
  for (let i = 1; i < count; i += 1) if (((bits >> BigInt(i)) & 1n) !== ((bits >> BigInt(i - 1)) & 1n)) changes += 1;
  return changes;
}

/** Whether a target fits the filter. What can be prepared once is prepared here: the answer is asked for ten thousand times. */
export function matcher(targets: Targets, filter: Filter): (index: number) => boolean {
  const { list, states } = targets;
  const pools = list.pools.map((pool) => filter.pool.length === 0 || filter.pool.includes(pool.name));
  const words = filter.search.toLowerCase().split(/\s+/).filter((word) => word !== "");
  // `label="value"` finds what `label=value` finds.
  const needles = words.map((word): [string, string] => [word.replace(/^([^="]+)="?([^"]*)"?$/, "$1=$2"), word]);
  const [flapping, slow, near] = ["flapping", "slow", "near"].map((one) => filter.special.includes(one));
  return (index) => {
    if (filter.health.length > 0 && !filter.health.includes(healthOf(states, index))) return false;
    if (!pools[list.pool[index]!]) return false;
    if (filter.reason.length > 0 && !filter.reason.includes(reasonOf(states, index))) return false;
    for (const [plain, word] of needles) {
      if (list.haystack[index]!.includes(plain)) continue;
      const error = states.errors[index];
      if (error === undefined || !error.toLowerCase().includes(word)) return false;
    }
    const pool = list.pools[list.pool[index]!]!;
    if (flapping && flaps(states, index) < 3) return false;
    if (slow && states.took[index]! < pool.timeout * 500) return false;
    const samples = near ? (states.samplesKept[index] ?? states.samples[index]!) : 0;
    return !near || (pool.sampleLimit > 0 && samples >= 0.8 * pool.sampleLimit);
  };
}

export type SortKey = "url" | "took" | "samples" | "bytes" | "missed" | "core" | "at" | "state";

export function compare(targets: Targets, key: SortKey): (a: number, b: number) => number {
  const { list, states } = targets;
  const rank = (index: number) => "dnu".indexOf(states.health[index] ?? "n");
  switch (key) {
    case "url":
      return (a, b) => (list.url[a]! < list.url[b]! ? -1 : list.url[a]! > list.url[b]! ? 1 : 0);
    case "missed":
      return (a, b) => (states.missed[b] ?? 0) - (states.missed[a] ?? 0);
    case "core":
      return (a, b) => states.core[a]! - states.core[b]!;
    case "state":
      return (a, b) => rank(a) - rank(b);
    case "at":
      return (a, b) => states.at[a]! - states.at[b]!;
    default:
      return (a, b) => states[key][b]! - states[key][a]!;
  }
}
