// The page /targets: every target of this server, grouped, filtered and sorted in the browser.
import type { CSSProperties } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Age, Bytes, Chip, Copy, Empty, LabelSet, MultiSelect, Num, Problem, SearchBox, State, Waiting } from "../components/basic";
import { Spark, StateBar } from "../components/canvas";
import { Refresh } from "../components/refresh";
import { WindowRows, type WindowItem } from "../components/window";
import { ask } from "../lib/api";
import { span, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { grid, onGrid, type Result, type Series } from "../lib/results";
import { loadList, settings, store } from "../lib/settings";
import { compare, healthOf, labelOf, labelsOf, loadTargets, matcher, reasonOf, type Filter, type SortKey, type TargetList, type Targets } from "../lib/targets";
import { pairs, quote, regexQuote, visible, type Labels } from "../lib/text";

const GROUPS = ["job", "state", "reason", "core"];
/** With more rows than this, groups without trouble begin folded. */
const FOLD_FROM = 200;

interface Row extends WindowItem {
  kind: "row";
  index: number;
  /** Of its group. */
  members: number[];
}
interface Group extends WindowItem {
  kind: "group";
  name: string;
  members: number[];
  folded: boolean;
}
type Item = Row | Group;

function groupName(targets: Targets, by: string, index: number): string {
  switch (by) {
    case "state":
      return healthOf(targets.states, index);
    case "reason":
      return reasonOf(targets.states, index) || "no error";
    case "core":
      return `core ${targets.states.core[index]}`;
    case "job":
      return targets.list.pools[targets.list.pool[index]!]!.name;
    default:
      return labelOf(targets.list, index, by) || `no ${by}`;
  }
}

/** Rows in the order in which they stay until a reader changes something. */
function arrange(targets: Targets, filter: Filter, by: string, sort: SortKey, reverse: boolean): { groups: [string, number[]][]; shown: number } {
  const groups = new Map<string, number[]>();
  let shown = 0;
  const fits = matcher(targets, filter);
  for (let index = 0; index < targets.list.count; index += 1) {
    if (!fits(index)) continue;
    shown += 1;
    const name = groupName(targets, by, index);
    const members = groups.get(name);
    if (members) members.push(index);
    else groups.set(name, [index]);
  }
  const order = compare(targets, sort);
  for (const members of groups.values()) {
    members.sort((a, b) => (reverse ? order(b, a) : order(a, b)) || a - b);
  }
  const down = (members: number[]) => members.filter((index) => targets.states.health[index] === "d").length;
  const ranked = [...groups].map(([name, members]) => ({ name, members, down: down(members) }));
  ranked.sort((a, b) => Number(b.down > 0) - Number(a.down > 0) || (a.name < b.name ? -1 : 1));
  return { groups: ranked.map(({ name, members }): [string, number[]] => [name, members]), shown };
}

/** Labels that are the same in the whole group. */
function commonOf(list: TargetList, members: number[]): Labels {
  const first = members[0];
  if (first === undefined) return {};
  let left = pairs(labelsOf(list, first));
  for (const index of members) {
    // What the pool has in common needs no look at each member.
    if (list.pool[index] === list.pool[first] && list.own[index]!.length === 0) continue;
    left = left.filter(([name, value]) => labelOf(list, index, name) === value);
    if (left.length === 0) break;
  }
  const common: Labels = Object.create(null);
  for (const [name, value] of left) common[name] = value;
  return common;
}

function useFilter(): [Filter & { group: string; sort: SortKey; reverse: boolean }, (change: Record<string, string | string[] | null>, push?: boolean) => void] {
  const [params, change] = useAddress();
  // `state` and `job` are of older addresses.
  const list = (name: string, old?: string) => [...params.getAll(name), ...(old ? params.getAll(old) : [])].filter((one) => one !== "");
  const sort = params.get("sort") ?? "state";
  return [
    {
      health: list("health", "state").map((one) => one.toLowerCase()),
      pool: list("pool", "job").concat(list("scrapePool")),
      reason: list("reason"),
      search: params.get("search") ?? "",
      special: list("special"),
      group: params.get("group") ?? "job",
      sort: (["url", "took", "samples", "bytes", "missed", "core", "at", "state"].includes(sort) ? sort : "state") as SortKey,
      reverse: params.get("order") === "reverse",
    },
    change,
  ];
}

export function TargetsPage() {
  const [filter, change] = useFilter();
  const [interval, setInterval] = useState(15_000);
  const before = useRef<TargetList | null>(null);
  const { data, error, at, refresh } = usePoll("targets", interval, async (signal) => {
    const targets = await loadTargets(before.current, signal);
    before.current = targets.list;
    return targets;
  });
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  return (
    <TargetsView targets={data} filter={filter} change={change} error={error}>
      <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
    </TargetsView>
  );
}

interface ViewProps {
  targets: Targets;
  filter: ReturnType<typeof useFilter>[0];
  change: ReturnType<typeof useFilter>[1];
  error: unknown;
  children: preact.ComponentChildren;
}

function TargetsView({ targets, filter, change, error, children }: ViewProps) {
  const { list, states } = targets;
  const [folds, setFolds] = useState<Map<string, boolean>>(() => new Map(loadList("folds").map((one) => [one.slice(1), one[0] === "-"])));
  const [resorted, resort] = useState(0);
  const [chosen, setChosen] = useState<number | null>(null);
  const latest = useRef(targets);
  latest.current = targets;
  const key = JSON.stringify(filter);

  // Rows keep their places when only their state changes.
  const arranged = useMemo(() => {
    const now = latest.current;
    return { ...arrange(now, filter, filter.group, filter.sort, filter.reverse), states: now.states };
  }, [list, key, resorted]);
  const moved = useMemo(() => {
    if (states === arranged.states) return 0;
    let more = 0;
    const fits = matcher(targets, { ...filter, health: [] });
    for (let index = 0; index < list.count; index += 1) {
      if (states.health[index] === "d" && arranged.states.health[index] !== "d" && fits(index)) more += 1;
    }
    return more;
  }, [states, arranged]);
  // Only groups in view are looked through for labels that all their members have.
  const common = useMemo(() => {
    const known = new Map<number[], Labels>();
    return (members: number[]): Labels => {
      if (!known.has(members)) known.set(members, commonOf(list, members));
      return known.get(members)!;
    };
  }, [arranged]);
  const items = useMemo(() => {
    const all: Item[] = [];
    const rowHeight = settings.dense ? 26 : 32;
    for (const [name, members] of arranged.groups) {
      const foldKey = `${filter.group}:${name}`;
      const hasTrouble = members.some((index) => arranged.states.health[index] === "d");
      const folded = folds.get(foldKey) ?? (arranged.shown > FOLD_FROM && !hasTrouble && arranged.groups.length > 1);
      all.push({ kind: "group", key: `g${name}`, height: 36, name, members, folded });
      if (folded) continue;
      for (const index of members) {
        const hasError = arranged.states.errors[index] !== undefined || states.errors[index] !== undefined;
        all.push({ kind: "row", key: list.id[index]!, height: rowHeight + (hasError ? 22 : 0), index, members });
      }
    }
    return all;
  }, [arranged, folds, states]);

  const fold = (name: string, folded: boolean) => {
    const next = new Map(folds).set(`${filter.group}:${name}`, folded);
    setFolds(next);
    store("folds", JSON.stringify([...next].slice(-200).map(([one, isFolded]) => `${isFolded ? "-" : "+"}${one}`)));
  };

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (!settings.keys || event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "TEXTAREA", "SUMMARY"].includes(target.tagName)) return;
      if (event.key === "j" || event.key === "k") {
        const step = event.key === "j" ? 1 : -1;
        let next = (chosen ?? (step === 1 ? -1 : items.length)) + step;
        while (items[next] && items[next]!.kind !== "row") next += step;
        if (items[next]) setChosen(next);
      } else if (event.key === "Enter" && chosen !== null && target.tagName !== "BUTTON" && target.tagName !== "A") {
        const item = items[chosen];
        if (item?.kind === "row") location.href = `target?id=${list.id[item.index]}`;
      } else if (event.key === "e") {
        change({ health: filter.health.length === 1 && filter.health[0] === "down" ? null : ["down"], state: null });
      } else if (event.key === ".") {
        document.querySelector<HTMLElement>("[data-refresh]")?.click();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const counts = useMemo(() => {
    const all = { up: 0, down: 0, unknown: 0 };
    for (let index = 0; index < list.count; index += 1) all[healthOf(states, index)] += 1;
    return all;
  }, [states]);
  const sparks = useSparks(targets);
  const labelNames = useMemo(() => {
    const names = new Set<string>();
    for (let index = 0; index < list.count && names.size < 40; index += Math.ceil(list.count / 500)) for (const [name] of list.own[index]!) names.add(name);
    for (const pool of list.pools) for (const [name] of pairs(pool.labels)) if (names.size < 60) names.add(name);
    return [...names].filter((name) => name !== "job" && name !== "instance").sort();
  }, [list]);
  const reasons = useMemo(() => [...new Set([...states.reasons, ...filter.reason])].sort(), [states, key]);
  const toggle = (name: "health", value: string) => {
    const now = filter[name];
    change({ [name]: now.includes(value) ? now.filter((one) => one !== value) : [...now, value], state: null });
  };
  const exported = () =>
    JSON.stringify(
      items.filter((item): item is Row => item.kind === "row").map(({ index }) => ({
        url: list.url[index], job: list.pools[list.pool[index]!]!.name, labels: labelsOf(list, index), health: healthOf(states, index), error: states.errors[index] ?? "", took: states.took[index]! / 1e6, samples: states.samples[index], bytes: states.bytes[index],
      })),
      null,
      1,
    );
  const sortHead = (name: SortKey, text: string, numeric = false) => (
    <div role="columnheader" class={numeric ? "number" : ""} aria-sort={filter.sort === name ? (filter.reverse ? "descending" : "ascending") : "none"}>
      <button type="button" onClick={() => change({ sort: name, order: filter.sort === name && !filter.reverse ? "reverse" : null })}>{text}{filter.sort === name ? (filter.reverse ? " ↑" : " ↓") : ""}</button>
    </div>
  );

  return (
    <>
      {error !== null && <Problem error={error} />}
      <div class="bar">
        {(["down", "unknown", "up"] as const).map((health) => (
          <button type="button" key={health} aria-pressed={filter.health.includes(health)} onClick={() => toggle("health", health)}>
            {filter.health.includes(health) ? `${health} ${whole(counts[health])}` : <><State of={health} /> {whole(counts[health])}</>}
          </button>
        ))}
        <MultiSelect label="jobs" of={list.pools.map((pool): [string, string] => [pool.name, `${pool.name} (${pool.active})`])} chosen={filter.pool} onChange={(pool) => change({ pool, job: null, scrapePool: null })} />
        <MultiSelect label="reasons" of={reasons.map((reason): [string, string] => [reason, reason])} chosen={filter.reason} onChange={(reason) => change({ reason })} />
        <MultiSelect
          label="more"
          of={[["flapping", "flapping"], ["slow", "slower than half of the timeout"], ["near", "near sample_limit"]]}
          chosen={filter.special}
          onChange={(special) => change({ special })}
        />
        <label class="inline">
          group
          <select value={filter.group} onChange={(event) => change({ group: event.currentTarget.value === "job" ? null : event.currentTarget.value })}>
            {[...GROUPS, ...labelNames, ...([...GROUPS, ...labelNames].includes(filter.group) ? [] : [filter.group])].map((name) => <option key={name} value={name}>{visible(name, 60)}</option>)}
          </select>
        </label>
        <SearchBox value={filter.search} onInput={(search) => change({ search: search === "" ? null : search }, false)} placeholder="label=value, URL or error" label="search targets" />
        {children}
      </div>
      <div class="bar">
        <span role="status"><strong>{whole(arranged.shown)}</strong> of {whole(list.count)} targets</span>
        {filter.health.map((one) => <Chip key={`h${one}`} text={one} onRemove={() => change({ health: filter.health.filter((other) => other !== one), state: null })} />)}
        {filter.pool.map((one) => <Chip key={`p${one}`} text={`job ${one}`} onRemove={() => change({ pool: filter.pool.filter((other) => other !== one), job: null, scrapePool: null })} />)}
        {filter.reason.map((one) => <Chip key={`r${one}`} text={`reason ${one}`} onRemove={() => change({ reason: filter.reason.filter((other) => other !== one) })} />)}
        {filter.special.map((one) => <Chip key={`s${one}`} text={one} onRemove={() => change({ special: filter.special.filter((other) => other !== one) })} />)}
        {moved > 0 && <button type="button" onClick={() => resort(resorted + 1)}>{moved} more {moved === 1 ? "is" : "are"} down ↑</button>}
        <span class="grow" />
        <Copy text={exported}>Copy as JSON</Copy>
      </div>
      <PoolNotes list={list} pools={filter.pool} />
      {items.length === 0 ? (
        <Empty>{list.count === 0 ? "No job has a target. Discovery shows what was found and dropped." : "No target fits these filters."}</Empty>
      ) : (
        <WindowRows<Item>
          items={items}
          label="targets"
          columns={11}
          reveal={chosen}
          onView={(view) => sparks.want(view.flatMap((item) => (item.kind === "row" ? [item.index] : [])))}
          head={
            <div class="head targets-grid" role="row" aria-rowindex={1} style={{ height: "34px" }}>
              {sortHead("state", "State")}
              {sortHead("url", "Target")}
              <div role="columnheader">Labels</div>
              <div role="columnheader">Last 64 scrapes</div>
              {sortHead("took", "Took", true)}
              <div role="columnheader">30 minutes</div>
              {sortHead("samples", "Samples", true)}
              {sortHead("bytes", "Bytes", true)}
              {sortHead("missed", "Missed", true)}
              {sortHead("core", "Core", true)}
              {sortHead("at", "Age", true)}
            </div>
          }
          render={(item, index, style) =>
            item.kind === "group" ? (
              <div class="row group-head" role="row" aria-rowindex={index + 2} key={item.key} style={style}>
                <GroupHead item={item} targets={targets} common={common(item.members)} isJob={filter.group === "job"} onFold={() => fold(item.name, !item.folded)} />
              </div>
            ) : (
              <TargetRow key={item.key} row={item} common={common(item.members)} targets={targets} style={style} chosen={index === chosen} rowIndex={index + 2} spark={sparks.get(item.index)} />
            )
          }
        />
      )}
    </>
  );
}

function GroupHead({ item, targets, common, isJob, onFold }: { item: Group; targets: Targets; common: Labels; isJob: boolean; onFold: () => void }) {
  const { states, list } = targets;
  let up = 0;
  let samples = 0;
  for (const index of item.members) {
    if (states.health[index] === "u") up += 1;
    samples += (states.samples[index]! * 1000) / (list.intervals[index] ?? list.pools[list.pool[index]!]!.interval);
  }
  const pool = isJob ? list.pools.find((one) => one.name === item.name) : undefined;
  return (
    <div role="cell" aria-colspan={11} class="bar" style={{ margin: 0 }}>
      <button type="button" aria-expanded={!item.folded} onClick={onFold}>{item.folded ? "▸" : "▾"} {visible(item.name, 200)}</button>
      <span class={up === item.members.length ? "up" : "down"}>{whole(up)}/{whole(item.members.length)} up</span>
      <span class="faint"><Num value={samples} /> samples/s</span>
      {pool && pool.dropped > 0 && <a href={`service-discovery?pool=${encodeURIComponent(pool.name)}&state=relabelling`}>{whole(pool.dropped)} dropped</a>}
      {pool && pool.failed > 0 && <a href={`service-discovery?pool=${encodeURIComponent(pool.name)}&state=failed`} class="down">{whole(pool.failed)} cannot be targets</a>}
      {pool && pool.others > 0 && <a href={`service-discovery?pool=${encodeURIComponent(pool.name)}&state=other-member`}>{whole(pool.others)} of other members</a>}
      <LabelSet labels={common} skip={["job"]} max={6} />
    </div>
  );
}

interface SparkData {
  took: (number | null)[];
  samples: (number | null)[];
}

function TargetRow({ row, common, targets, style, chosen, rowIndex, spark }: { row: Row; common: Labels; targets: Targets; style: CSSProperties; chosen: boolean; rowIndex: number; spark: SparkData | undefined }) {
  const { list, states } = targets;
  const { index } = row;
  const pool = list.pools[list.pool[index]!]!;
  const health = healthOf(states, index);
  const error = states.errors[index];
  const scraped = states.at[index]! > 0;
  const own: Labels = Object.create(null);
  for (const [name, value] of list.own[index]!) if (!Object.hasOwn(common, name) && name !== "instance") own[name] = value;
  const instance = labelOf(list, index, "instance");
  const url = list.url[index]!;
  return (
    <div class={`row targets-grid ${chosen ? "chosen" : ""}`} role="row" aria-rowindex={rowIndex} style={error !== undefined ? { ...style, alignContent: "start", paddingTop: "5px" } : style}>
      <div role="cell"><State of={health} /></div>
      <div role="cell">
        <a href={`target?id=${list.id[index]}`} title={visible(url, 500)}>{visible(url.includes(instance) ? url : instance, 300)}</a>
        {!url.includes(instance) && <span class="faint"> {visible(url, 200)}</span>}
      </div>
      <div role="cell" title={visible(pairs(own).map(([name, value]) => `${name}="${value}"`).join(" "), 1000)}><LabelSet labels={own} max={6} /></div>
      <div role="cell"><StateBar outcomes={states.outcomes[index]!} count={states.outcomeCounts[index] ?? 64} /></div>
      <div role="cell" class="number" title={`timeout ${span(pool.timeout)}`}>{scraped ? span(states.took[index]! / 1000) : ""}</div>
      <div role="cell"><Spark values={spark?.took} label={spark ? "duration of the scrapes of 30 minutes" : "no figures of 30 minutes yet"} /></div>
      <div role="cell" class="number">
        <Spark values={spark?.samples} width={44} label={spark ? "samples of the scrapes of 30 minutes" : "no figures of 30 minutes yet"} /> {scraped && <Num value={states.samples[index]!} />}
      </div>
      <div role="cell" class="number">{scraped && <Bytes value={states.bytes[index]!} />}</div>
      <div role="cell" class="number">{states.missed[index] ?? 0}</div>
      <div role="cell" class="number">{states.core[index]}</div>
      <div role="cell" class="number">{scraped ? <Age ms={states.at[index]!} /> : <span class="faint">never</span>}</div>
      {error !== undefined && (
        <div role="cell" style={{ gridColumn: "2 / -1" }} class="error" title={visible(error, 400)}>
          <span class="reason">{reasonOf(states, index)}</span>{visible(error, 300)}
        </div>
      )}
    </div>
  );
}

/** What is wrong with jobs as such. */
function PoolNotes({ list, pools }: { list: TargetList; pools: string[] }) {
  const shown = list.pools.filter((pool) => pools.length === 0 || pools.includes(pool.name));
  const sources = shown.flatMap((pool) => pool.sourceErrors.map((error) => ({ pool: pool.name, error })));
  const failed = shown.flatMap((pool) => pool.failedTargets.map((one) => ({ pool: pool.name, ...one })));
  const empty = shown.filter((pool) => pool.active === 0);
  return (
    <>
      {sources.slice(0, 5).map(({ pool, error }, index) => <div class="note" key={index}><strong>Discovery of {visible(pool, 100)}: </strong>{visible(error, 600)}</div>)}
      {sources.length > 5 && <p class="faint">and {sources.length - 5} more errors of discovery</p>}
      {failed.length > 0 && (
        <details>
          <summary>{whole(shown.reduce((sum, pool) => sum + pool.failed, 0))} discovered addresses cannot be targets</summary>
          {failed.slice(0, 40).map(({ pool, error, labels }, index) => <div class="note" key={index}>{visible(pool, 100)}: {visible(error, 400)} <LabelSet labels={labels} max={12} /></div>)}
        </details>
      )}
      {empty.length > 0 && list.pools.length > empty.length && <p class="faint">Without targets: {empty.slice(0, 20).map((pool) => visible(pool.name, 60)).join(", ")}{empty.length > 20 ? ` and ${empty.length - 20} more` : ""}</p>}
    </>
  );
}

const SPARK_MS = 1_800_000;
const SPARK_STEP_MS = 60_000;
/** Targets of one question. */
const SPARKS_MAX = 80;

/** Figures of what is in view, asked for in one question when the view stands still. */
function useSparks(targets: Targets): { want: (indexes: number[]) => void; get: (index: number) => SparkData | undefined } {
  const cache = useRef(new Map<string, { at: number; data: SparkData }>());
  const [, redraw] = useState(0);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const { list } = targets;
  const want = (indexes: number[]) => {
    const now = Date.now();
    const missing = indexes.filter((index) => now - (cache.current.get(list.id[index]!)?.at ?? 0) > SPARK_STEP_MS).slice(0, SPARKS_MAX);
    const named = missing.filter((index) => labelOf(list, index, "instance") !== "");
    if (named.length === 0) return;
    abort.current?.abort();
    const mine = new AbortController();
    abort.current = mine;
    const instances = [...new Set(named.map((index) => labelOf(list, index, "instance")))];
    const query = `{__name__=~"scrape_duration_seconds|scrape_samples_scraped", instance=~${quote(instances.map(regexQuote).join("|"))}}`;
    const end = Math.floor(now / SPARK_STEP_MS) * SPARK_STEP_MS;
    const params = { query, start: (end - SPARK_MS) / 1000, end: end / 1000, step: SPARK_STEP_MS / 1000, limit: 4_000 };
    ask<Result>("query_range", params, { post: true, signal: mine.signal }).then(
      ({ data }) => {
        const times = grid(end - SPARK_MS, end, SPARK_STEP_MS);
        const bySet = new Map((data.result as Series[]).map((one) => [setKey(one.metric), one]));
        for (const index of named) {
          const of = (name: string) => onGrid(bySet.get(setKey({ ...labelsOf(list, index), __name__: name }))?.values ?? [], times, SPARK_STEP_MS);
          cache.current.set(list.id[index]!, { at: now, data: { took: of("scrape_duration_seconds"), samples: of("scrape_samples_scraped") } });
        }
        if (cache.current.size > 5_000) cache.current.clear();
        redraw((count) => count + 1);
      },
      () => {},
    );
  };
  return { want, get: (index) => cache.current.get(list.id[index]!)?.data };
}

function setKey(labels: Labels): string {
  return JSON.stringify(pairs(labels));
}
