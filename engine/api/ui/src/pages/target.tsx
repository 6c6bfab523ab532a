// The page of one target: what it is, how it came to be, how it went, and what its scrapes bring.
import { useEffect, useState } from "preact/hooks";
import { Age, Bytes, Copy, Empty, LabelSet, Meter, Num, Problem, Segments, State, Table, Time, Waiting } from "../components/basic";
import { StateBar } from "../components/canvas";
import { Plot } from "../components/plot";
import { Refresh } from "../components/refresh";
import { Yaml } from "../components/yaml";
import { ApiError, ask, get } from "../lib/api";
import { bytes, duration, short, span, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { grid, number, onGrid, type Result, type Series } from "../lib/results";
import { pairs, selector, visible, type Labels } from "../lib/text";

interface Detail {
  id: string;
  job: string;
  url: string;
  labels: Labels;
  discoveredLabels: Labels;
  relabelSteps: { rule: string; labels: Labels; keep: boolean; changed: boolean }[];
  leavingTo: string[];
  settings: string;
  limits: { name: string; limit: number; used: number | null }[];
  interval: number;
  timeout: number;
  health: string;
  since: number | null;
  core: number | null;
  lastScrape: number | null;
  took: number;
  samples: number;
  samplesKept: number;
  seriesAdded: number;
  bodyBytes: number;
  wireBytes: number;
  scrapes: number;
  scrapesFailed: number;
  missedInFlight: number;
  missedCoreLate: number;
  outcomes: string;
  lastError: string;
  lastReason: string;
  failures: { at: number; reason: string; error: string }[];
  refusedBodyHead: string | null;
}

const RANGES = [["3600000", "1 h"], ["21600000", "6 h"], ["86400000", "1 d"], ["604800000", "7 d"]] as const;

export function TargetPage() {
  const [params, change] = useAddress();
  const id = params.get("id") ?? "";
  const [interval, setInterval] = useState(15_000);
  const { data, error, at, refresh } = usePoll(`target ${id}`, interval, (signal) => get<Detail>("ringscrape/targets/one", { id }, { signal }));
  useEffect(() => {
    if (data) document.title = `${data.url} · ringscrape`;
  }, [data?.url]);
  if (!data) {
    if (error instanceof ApiError && error.status === 404) return <Empty>No such target here: it is gone, or another member of the fleet scrapes it now. <a href="targets">Targets</a></Empty>;
    return error ? <Problem error={error} /> : <Waiting />;
  }
  const range = params.get("range") ?? "3600000";
  return (
    <>
      <p><a href="targets">‹ Targets</a> · <a href={`targets?pool=${encodeURIComponent(data.job)}`}>job {visible(data.job, 200)}</a></p>
      {error !== null && <Problem error={error} />}
      <h2 class="mono">{visible(data.url, 600)}</h2>
      <div class="bar">
        <State of={data.health} />
        {data.since !== null && <span class="faint">for {span(Date.now() - data.since)}</span>}
        <StateBar outcomes={data.outcomes} count={data.scrapes} width={192} />
        <span class="faint">{data.core === null ? "on no core yet" : `core ${data.core}`}, every {duration(data.interval)}, last <Age ms={data.lastScrape} /></span>
        {data.leavingTo.length > 0 && <span class="warn-text">on its way to {data.leavingTo.map((name) => visible(name, 60)).join(", ")}</span>}
        <a href={`query?g0.expr=${encodeURIComponent(selector(data.labels))}&g0.tab=table`}>query its series</a>
        <Copy text={selector(data.labels)}>Copy selector</Copy>
        <Copy text={`curl -sS '${data.url.replace(/'/g, "'\\''")}'`}>Copy curl</Copy>
        <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
      </div>
      {data.lastError !== "" && <div class="note"><span class="reason">{data.lastReason}</span>{visible(data.lastError, 4000)}</div>}
      <History detail={data} range={Number(range)} onRange={(next) => change({ range: next === "3600000" ? null : next }, false)} rangeText={range} />
      <div class="grid two" style={{ marginTop: "12px" }}>
        <section class="card"><h2>Last scrape</h2><LastScrape detail={data} /></section>
        <section class="card"><h2>Limits</h2><Limits detail={data} /></section>
        <section class="card"><h2>Labels</h2>
          <h3>of its samples</h3><LabelSet labels={data.labels} />
          <h3>discovered</h3><LabelSet labels={data.discoveredLabels} />
        </section>
        <section class="card"><h2>Relabelling</h2><Relabelling detail={data} /></section>
        <section class="card"><h2>Errors <small>the last {data.failures.length}</small></h2><Failures detail={data} /></section>
        <section class="card"><h2>Top metrics</h2><TopMetrics labels={data.labels} /></section>
      </div>
      <h2>Settings of its job</h2>
      <details><summary>show</summary><Yaml text={data.settings} label="settings of the job" /></details>
    </>
  );
}

function LastScrape({ detail }: { detail: Detail }) {
  const dropped = detail.samples - detail.samplesKept;
  const rows: [string, preact.ComponentChildren][] = [
    ["at", <Time ms={detail.lastScrape} />],
    ["took", `${span(detail.took / 1000)} of ${duration(detail.timeout)}`],
    ["samples", <><Num value={detail.samples} />{dropped > 0 ? `, ${whole(dropped)} dropped by metric_relabel_configs` : ""}</>],
    ["series added", <Num value={detail.seriesAdded} />],
    ["body", <><Bytes value={detail.bodyBytes} />, <Bytes value={detail.wireBytes} /> on the wire</>],
    ["scrapes", `${whole(detail.scrapes)}, ${whole(detail.scrapesFailed)} failed`],
    ["missed ticks", `${whole(detail.missedInFlight)} still in flight, ${whole(detail.missedCoreLate)} core late`],
  ];
  return <dl class="facts">{rows.map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}</dl>;
}

function Limits({ detail }: { detail: Detail }) {
  // Names and lengths of labels are looked up among the target's series.
  const [found, setFound] = useState<Record<string, number>>({});
  useEffect(() => {
    const abort = new AbortController();
    const now = Math.ceil(Date.now() / 1000);
    get<Labels[]>("series", { "match[]": [selector(detail.labels)], start: now - 300, end: now, limit: 5_000 }, { signal: abort.signal }).then(
      (all) => {
        const most = { label_limit: 0, label_name_length_limit: 0, label_value_length_limit: 0 };
        const encoder = new TextEncoder();
        for (const labels of all) {
          const list = pairs(labels);
          most.label_limit = Math.max(most.label_limit, list.length);
          for (const [name, value] of list) {
            most.label_name_length_limit = Math.max(most.label_name_length_limit, encoder.encode(name).length);
            most.label_value_length_limit = Math.max(most.label_value_length_limit, encoder.encode(value).length);
          }
        }
        setFound(all.length > 0 ? most : {});
      },
      () => {},
    );
    return () => abort.abort();
  }, [detail.id]);
  const all = [...detail.limits, { name: "scrape_timeout", limit: detail.timeout, used: detail.took / 1000 }];
  const show = (name: string, value: number) => (name === "body_size_limit" ? bytes(value) : name === "scrape_timeout" ? span(value) : whole(value));
  return (
    <Table head={["Limit", "Used", "Limit", ""]} numbers={[1, 2]} label="limits">
      {all.map(({ name, limit, used }) => {
        const now = used ?? found[name] ?? null;
        return (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td class="number">{now === null ? "–" : show(name, now)}</td>
            <td class="number">{limit === 0 ? <span class="faint">none</span> : show(name, limit)}</td>
            <td>{limit > 0 && now !== null && <Meter value={now} max={limit} label={`${name} used`} />}</td>
          </tr>
        );
      })}
    </Table>
  );
}

/** What a rule changed: labels that are new, that are gone, and those with another value. */
export function Changes({ before, after }: { before: Labels; after: Labels }) {
  const gone = pairs(before).filter(([name, value]) => !Object.hasOwn(after, name) || after[name] !== value);
  const added = pairs(after).filter(([name, value]) => !Object.hasOwn(before, name) || before[name] !== value);
  return (
    <>
      {gone.map(([name, value]) => <span class="label gone" key={`-${name}`}>− {visible(name, 200)}="{visible(value, 600)}"</span>)}
      {added.map(([name, value]) => <span class="label new" key={`+${name}`}>+ {visible(name, 200)}="{visible(value, 600)}"</span>)}
    </>
  );
}

export function RelabelSteps({ begin, steps }: { begin: Labels; steps: { rule: string; labels: Labels; keep: boolean; changed: boolean }[] }) {
  const [all, setAll] = useState(false);
  const quiet = steps.filter((step) => step.keep && !step.changed).length;
  if (steps.length === 0) return <p class="faint">The job has no relabel_configs.</p>;
  return (
    <>
      <p>{steps.length} rules: {steps.length - quiet} did something, {quiet} did nothing. {quiet > 0 && <button type="button" onClick={() => setAll(!all)}>{all ? "hide" : "show"} those</button>}</p>
      {steps.map((step, index) => {
        if (!all && step.keep && !step.changed) return null;
        const before = index === 0 ? begin : steps[index - 1]!.labels;
        return (
          <div key={index} style={{ marginBottom: "8px" }}>
            <strong>Rule {index + 1}</strong> {step.keep ? (step.changed ? "" : <span class="faint">changed nothing</span>) : <span class="down">dropped it</span>}
            <div class="mono expr">{visible(step.rule, 2000)}</div>
            {step.keep && step.changed && <Changes before={before} after={step.labels} />}
          </div>
        );
      })}
    </>
  );
}

function Relabelling({ detail }: { detail: Detail }) {
  return <RelabelSteps begin={detail.discoveredLabels} steps={detail.relabelSteps} />;
}

function Failures({ detail }: { detail: Detail }) {
  return (
    <>
      {detail.failures.length === 0 && <p class="faint">No scrape has failed since this server knows the target.</p>}
      {detail.failures.length > 0 && (
        <Table head={["At", "Error"]} label="errors">
          {detail.failures.map((one) => <tr key={one.at}><td style={{ whiteSpace: "nowrap" }}><Time ms={one.at} /></td><td class="error"><span class="reason">{one.reason}</span>{visible(one.error, 500)}</td></tr>)}
        </Table>
      )}
      {detail.refusedBodyHead !== null && (
        <>
          <h3>Begin of the last body that was refused</h3>
          <pre class="wrap" tabIndex={0} role="region" aria-label="begin of the body">{visible(detail.refusedBodyHead, 1100)}</pre>
        </>
      )}
    </>
  );
}

function TopMetrics({ labels }: { labels: Labels }) {
  const [rows, setRows] = useState<[string, number][] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const query = `topk(20, count by (__name__) (${selector(labels)}))`;
  useEffect(() => {
    const abort = new AbortController();
    ask<Result>("query", { query, limit: 20 }, { post: true, signal: abort.signal }).then(
      ({ data }) => setRows((data.result as Series[]).map((one): [string, number] => [one.metric.__name__ ?? "", number(one.value?.[1] ?? "0")])),
      (problem) => !abort.signal.aborted && setError(problem),
    );
    return () => abort.abort();
  }, [query]);
  if (!rows) return error ? <Problem error={error} /> : <Waiting />;
  const most = rows[0]?.[1] ?? 1;
  return (
    <Table head={["Metric", "Series", ""]} numbers={[1]} label="top metrics">
      {rows.map(([name, count]) => (
        <tr key={name}>
          <td class="wrap"><a href={`query?g0.expr=${encodeURIComponent(selector({ ...labels, __name__: name }))}&g0.tab=table`}>{visible(name, 200)}</a></td>
          <td class="number">{whole(count)}</td>
          <td style={{ width: "30%" }}><Meter neutral value={count} max={most} label={`share of ${name}`} /></td>
        </tr>
      ))}
    </Table>
  );
}

const HISTORY: [string, string, (value: number) => string][] = [
  ["up", "up", short],
  ["scrape_duration_seconds", "took", (value) => span(value * 1000)],
  ["scrape_samples_scraped", "samples", short],
  ["scrape_series_added", "series added", short],
  ["scrape_body_size_bytes", "body", bytes],
];

function History({ detail, range, rangeText, onRange }: { detail: Detail; range: number; rangeText: string; onRange: (range: string) => void }) {
  const step = Math.max(detail.interval, Math.ceil(range / 400 / 1000) * 1000);
  const { data, error } = usePoll(`history ${detail.id} ${range}`, 60_000, async (signal) => {
    const end = Math.floor(Date.now() / step) * step;
    const names = "up|scrape_duration_seconds|scrape_samples_scraped|scrape_samples_post_metric_relabeling|scrape_series_added|scrape_body_size_bytes";
    const query = selector({ ...detail.labels }).replace(/^\{/, `{__name__=~"${names}", `).replace(/, \}$/, "}");
    const params = { query, start: (end - range) / 1000, end: end / 1000, step: step / 1000, limit: 20 };
    const { data: result } = await ask<Result>("query_range", params, { post: true, signal });
    const times = grid(end - range, end, step);
    return { times, byName: new Map((result.result as Series[]).map((one) => [one.metric.__name__ ?? "", onGrid(one.values ?? [], times, step)])) };
  });
  return (
    <section>
      <h2>History <Segments label="range of the history" of={RANGES} value={rangeText as "3600000"} onChange={onRange} /></h2>
      <Problem error={data ? null : error} />
      {!data && !error && <Waiting />}
      {data && (
        <div class="grid two">
          {HISTORY.filter(([name]) => data.byName.has(name)).map(([name, title, unit]) => {
            const lines = [{ label: title, values: data.byName.get(name)! }];
            if (name === "scrape_samples_scraped") lines.push({ label: "after relabelling", values: data.byName.get("scrape_samples_post_metric_relabeling") ?? [] });
            if (name === "scrape_duration_seconds") lines.push({ label: "timeout", values: data.times.map(() => detail.timeout / 1000) });
            return (
              <div class="card" key={name}>
                <h3>{title} <small class="mono">{name}</small></h3>
                <Plot bare times={data.times} series={lines.slice(0, name === "scrape_duration_seconds" && lines[0]!.values.every((value) => (value ?? 0) < detail.timeout / 4000) ? 1 : 2)} label={`${title} of the target`} height={130} unit={unit} zero sync="target" />
              </div>
            );
          })}
          {data.byName.size === 0 && <Empty>No samples of this target in this time.</Empty>}
        </div>
      )}
    </section>
  );
}
