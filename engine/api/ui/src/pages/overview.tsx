// The page /overview: is it all right, and if not, where.
import { useState } from "preact/hooks";
import { Bytes, Meter, Num, Problem, Segments, Table, Waiting } from "../components/basic";
import { Plot, type PlotSeries } from "../components/plot";
import { Refresh } from "../components/refresh";
import { get } from "../lib/api";
import { bytes, short, span, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { visible } from "../lib/text";

interface JobCost {
  name: string;
  targets: number;
  down: number;
  samples: number;
  seconds: number;
  bytes: number;
  seriesAdded: number;
}

interface TargetShare {
  id: string;
  job: string;
  url: string;
  used: number;
  limit: number;
}

interface History {
  step: number;
  times: number[];
  process: Record<string, (number | null)[]>;
  cores: number[][];
  reasons: Record<string, number[]>;
  remote: Record<string, (number | null)[]>;
  targets: {
    targets: number;
    up: number;
    down: number;
    unknown: number;
    reasons: Record<string, number>;
    jobs: JobCost[];
    slowest: TargetShare[];
    nearSampleLimit: TargetShare[];
    others: number;
    dropped: number;
    sourceErrors: number;
  };
  now: {
    at: number;
    started: number;
    alertsPending: number;
    fleetMember: string | null;
    fleetMembers: number;
    fleetProblems: number;
    configRefused: boolean;
    safeMode: boolean;
    logFailing: boolean;
    retention: number;
    retentionBytes: number;
    oldest: number | null;
  };
}

function last(values: (number | null)[] | undefined): number | null {
  for (let i = (values?.length ?? 0) - 1; i >= 0; i -= 1) if (values![i] !== null) return values![i]!;
  return null;
}

export function OverviewPage() {
  const [params, change] = useAddress();
  const range = params.get("range") === "24h" ? "24h" : "1h";
  const [interval, setInterval] = useState(5_000);
  const { data, error, at, refresh } = usePoll(`overview ${range}`, interval, (signal) => get<History>("ringscrape/status/history", { range }, { signal }));
  return (
    <>
      {error !== null && !data && <Problem error={error} />}
      {!data && !error && <Waiting />}
      {data && <Findings data={data} />}
      <div class="bar">
        <Segments label="range" of={[["1h", "last hour"], ["24h", "last day"]] as const} value={range} onChange={(next) => change({ range: next === "1h" ? null : next }, false)} />
        <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
        {data && <span class="faint">running for {span(data.now.at - data.now.started)}</span>}
      </div>
      {data && <Charts data={data} />}
      {data && <Tables data={data} />}
    </>
  );
}

function Findings({ data }: { data: History }) {
  const { targets, now } = data;
  const found: { kind: "down" | "warn"; text: string; href: string }[] = [];
  const add = (condition: boolean, kind: "down" | "warn", text: string, href: string) => condition && found.push({ kind, text, href });
  add(now.configRefused, "down", "the last configuration was refused", "config");
  add(now.logFailing, "down", "the log cannot be written", "tsdb-status");
  add(now.safeMode, "warn", "safe mode: targets are held back after crashes", "status");
  for (const [reason, count] of Object.entries(targets.reasons).sort((a, b) => b[1] - a[1]).slice(0, 5)) {
    add(true, "down", `${whole(count)} ${count === 1 ? "target" : "targets"} down: ${reason}`, `targets?health=down&reason=${encodeURIComponent(reason)}`);
  }
  add(targets.sourceErrors > 0, "down", `${targets.sourceErrors} errors of discovery`, "service-discovery");
  add(targets.nearSampleLimit.length > 0, "warn", `${targets.nearSampleLimit.length}${targets.nearSampleLimit.length >= 10 ? " or more" : ""} targets near sample_limit`, "targets?special=near");
  const firing = last(data.process.alertsFiring) ?? 0;
  add(firing > 0, "down", `${whole(firing)} ${firing === 1 ? "alert fires" : "alerts fire"}`, "alerts?state=firing");
  add(now.alertsPending > 0, "warn", `${whole(now.alertsPending)} pending`, "alerts?state=pending");
  for (const [name, values] of Object.entries(data.remote)) {
    const lag = last(values);
    add(lag !== null && lag > 30, "warn", `remote write "${visible(name, 60)}" is ${span((lag ?? 0) * 1000)} behind`, "status");
  }
  add(now.fleetProblems > 0, "down", `${now.fleetProblems} problems of the fleet`, "fleet");
  const missed = last(data.process.missed) ?? 0;
  add(missed > 0, "warn", `${short(missed)} scrapes a second are missed`, "targets?sort=missed");
  return (
    <div class="bar" role="status" aria-label="findings">
      {found.length === 0 && <span class="state up">● {targets.targets > 0 ? "all targets are up, nothing is behind" : "no targets yet"}</span>}
      {found.map((one) => (
        <a class={`chip state ${one.kind === "down" ? "down" : "warn-text"}`} href={one.href} key={one.text} style={{ padding: "3px 10px" }}>{one.kind === "down" ? "✕" : "▲"} {one.text}</a>
      ))}
    </div>
  );
}

interface ChartSpec {
  title: string;
  figure: string;
  series: PlotSeries[];
  unit?: (value: number) => string;
  stacked?: boolean;
  href?: string;
}

function Charts({ data }: { data: History }) {
  const { process, targets } = data;
  const times = data.times.map((ms) => ms / 1000);
  const line = (label: string, name: string, style?: number): PlotSeries => ({ label, values: process[name] ?? [], style });
  const figure = (name: string, unit: (value: number) => string = short) => {
    const value = last(process[name]);
    return value === null ? "–" : unit(value);
  };
  const seconds = (value: number) => span(value * 1000);
  const percent = (value: number) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
  const reasons = Object.entries(data.reasons).map(([label, values]) => ({ label, values }));
  const specs: ChartSpec[] = [
    { title: "Samples a second", figure: figure("samples"), series: [line("samples", "samples")] },
    { title: "Scrapes a second", figure: `${figure("scrapes")}, ${figure("scrapesFailed")} failed`, series: [line("scrapes", "scrapes"), line("failed", "scrapesFailed", 6), line("missed", "missed", 1)] },
    { title: "Lateness of scrapes", figure: `p99.9 ${figure("latenessP999", seconds)}`, series: [line("p50", "latenessP50", 2), line("p99", "latenessP99", 1), line("p99.9", "latenessP999", 3)], unit: seconds },
    { title: "Failing targets by reason", figure: `${whole(targets.down)} of ${whole(targets.targets)}`, series: reasons.length > 0 ? reasons : [{ label: "down", values: data.times.map(() => 0) }], stacked: reasons.length > 0, href: "targets?health=down" },
    { title: "CPU", figure: figure("cpu", percent), series: data.cores.length <= 8 ? [line("process", "cpu", 7), ...data.cores.map((values, index) => ({ label: `core ${index}`, values, style: index % 7 }))] : [line("process", "cpu", 7), ...coreBands(data.cores)], unit: percent },
    { title: "Memory", figure: figure("rss", bytes), series: [line("resident", "rss"), line("rows and values", "headBytes", 1), line("templates", "templatesBytes", 2)], unit: bytes },
    { title: "Series", figure: `${figure("series")}, +${figure("seriesAdded")}/s`, series: [line("series", "series")], href: "tsdb-status" },
    { title: "Series added a second", figure: figure("seriesAdded"), series: [line("added", "seriesAdded")] },
    { title: "Log written a second", figure: figure("logBytesWritten", bytes), series: [line("bytes a second", "logBytesWritten")], unit: bytes },
    { title: "Disk", figure: `${bytes((last(process.logBytes) ?? 0) + (last(process.chunksBytes) ?? 0) + (last(process.blocksBytes) ?? 0))}`, series: [line("log", "logBytes"), line("chunks", "chunksBytes", 1), line("blocks", "blocksBytes", 2)], unit: bytes, stacked: true, href: "tsdb-status" },
    { title: "Queries at once", figure: figure("queries"), series: [line("queries", "queries")], href: "query" },
    { title: "Alerts firing", figure: figure("alertsFiring"), series: [line("alerts", "alertsFiring", 6)], href: "alerts" },
  ];
  if (Object.keys(data.remote).length > 0) {
    specs.push({ title: "Remote write behind", figure: seconds(Math.max(...Object.values(data.remote).map((values) => last(values) ?? 0))), series: Object.entries(data.remote).slice(0, 16).map(([label, values]) => ({ label: visible(label, 80), values })), unit: seconds, href: "status" });
  }
  return (
    <div class="grid">
      {specs.map((spec) => (
        <section class="card" key={spec.title} data-chart={spec.title}>
          <h3>{spec.href ? <a href={spec.href}>{spec.title}</a> : spec.title} <span class="big">{spec.figure}</span></h3>
          <Plot bare times={times} series={spec.series} label={spec.title} height={120} unit={spec.unit} stacked={spec.stacked ?? false} zero sync="overview" />
        </section>
      ))}
    </div>
  );
}

/** Of many cores the busiest, the idlest and the mean at each time. */
function coreBands(cores: number[][]): PlotSeries[] {
  const count = cores[0]?.length ?? 0;
  const at = (of: (values: number[]) => number) => Array.from({ length: count }, (_, index) => of(cores.map((values) => values[index] ?? 0)));
  return [
    { label: "busiest core", values: at((values) => Math.max(...values)), style: 3 },
    { label: "mean of the cores", values: at((values) => values.reduce((sum, value) => sum + value, 0) / values.length), style: 0 },
    { label: "idlest core", values: at((values) => Math.min(...values)), style: 2 },
  ];
}

function Tables({ data }: { data: History }) {
  const { targets } = data;
  const most = Math.max(1, targets.jobs.reduce((sum, job) => sum + job.samples, 0));
  const [shown, setShown] = useState(15);
  return (
    <>
      <h2>Jobs by cost</h2>
      <Table head={["Job", "Samples/s", "Share", "Targets", "Down", "Scrape s/s", "Bytes/s", "Series added/s"]} numbers={[1, 3, 4, 5, 6, 7]} label="jobs by cost">
        {targets.jobs.slice(0, shown).map((job) => (
          <tr key={job.name}>
            <th scope="row"><a href={`targets?pool=${encodeURIComponent(job.name)}`}>{visible(job.name, 200)}</a></th>
            <td class="number"><Num value={job.samples} /></td>
            <td style={{ minWidth: "110px" }}><Meter neutral value={job.samples} max={most} label={`share of job ${job.name}`} /> {((job.samples / most) * 100).toFixed(1)} %</td>
            <td class="number">{whole(job.targets)}</td>
            <td class="number">{job.down > 0 ? <a class="down" href={`targets?pool=${encodeURIComponent(job.name)}&health=down`}>{whole(job.down)}</a> : "0"}</td>
            <td class="number">{job.seconds.toPrecision(2)}</td>
            <td class="number"><Bytes value={job.bytes} /></td>
            <td class="number"><Num value={job.seriesAdded} /></td>
          </tr>
        ))}
      </Table>
      {targets.jobs.length > shown && <button type="button" onClick={() => setShown(shown + 50)}>{shown} of {targets.jobs.length} jobs; more</button>}
      <div class="grid two" style={{ marginTop: "12px" }}>
        <Worst title="Slowest targets" rows={targets.slowest} unit={(value) => span(value * 1000)} empty="No target has been scraped yet." />
        <Worst title="Nearest to sample_limit" rows={targets.nearSampleLimit} unit={whole} empty="No target is above 80 % of its sample_limit." />
      </div>
    </>
  );
}

function Worst({ title, rows, unit, empty }: { title: string; rows: TargetShare[]; unit: (value: number) => string; empty: string }) {
  return (
    <section class="card">
      <h3>{title}</h3>
      {rows.length === 0 && <p class="faint">{empty}</p>}
      {rows.length > 0 && (
        <Table head={["Target", "Used", ""]} numbers={[1]} label={title}>
          {rows.map((row) => (
            <tr key={row.id}>
              <td class="wrap"><a href={`target?id=${row.id}`}>{visible(row.url, 200)}</a> <span class="faint">{visible(row.job, 60)}</span></td>
              <td class="number">{unit(row.used)} of {unit(row.limit)}</td>
              <td style={{ minWidth: "80px" }}><Meter value={row.used} max={row.limit} label="share of the limit" /></td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
