// The page /tsdb-status: what is stored, and which names and labels it consists of.
import { useEffect, useState } from "preact/hooks";
import { Bytes, Empty, Meter, Num, Problem, SearchBox, Table, Time, Waiting } from "../components/basic";
import { ask, get } from "../lib/api";
import { bytes, span, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { number, type Result, type Series } from "../lib/results";
import { quote, visible } from "../lib/text";

interface Stat {
  name: string;
  value: number;
}

interface Tsdb {
  headStats: { numSeries: number; numLabelPairs: number; chunkCount: number; minTime: number; maxTime: number };
  seriesCountByMetricName: Stat[];
  labelValueCountByLabelName: Stat[];
  memoryInBytesByLabelName: Stat[];
  seriesCountByLabelValuePair: Stat[];
}

interface Block {
  ulid: string;
  minTime: number;
  maxTime: number;
  level: number;
  bytes: number;
  series: number;
  samples: number;
  chunks: number;
  tombstones: number;
  isMarked: boolean;
  awaitsUpload: boolean;
  fault: string;
}

interface BlockList {
  blocks: Block[];
  retention: { time: number; bytes: number; usedBytes: number; nextByAge: { ulid: string; at: number } | null; nextBySize: string | null };
  written: { samples: number; logBytes: number; chunkBytes: number; blockBytes: number };
}

export function StoragePage() {
  const [params, change] = useAddress();
  const limit = Math.min(10_000, Math.max(1, Number(params.get("limit") ?? "10") || 10));
  const search = params.get("search") ?? "";
  const { data, error } = usePoll(`tsdb ${limit}`, 60_000, (signal) => get<Tsdb>("status/tsdb", { limit }, { signal }));
  const list = usePoll("block list", 60_000, (signal) => get<BlockList>("ringscrape/status/blocks", {}, { signal }));
  const bad = usePoll("bad blocks", 60_000, (signal) => get<{ badBlocks: string[] }>("status/tsdb/blocks", {}, { signal }));
  const history = usePoll("history", 60_000, (signal) => get<any>("ringscrape/status/history", {}, { signal }));
  const lastOf = (name: string): number | null => {
    const values: (number | null)[] = history.data?.process?.[name] ?? [];
    return values.findLast((value) => value !== null) ?? null;
  };
  const head = data?.headStats;
  return (
    <>
      <Problem error={data ? null : error} />
      {!data && !error && <Waiting />}
      {head && (
        <div class="grid">
          <section class="card">
            <h2>In memory and chunks</h2>
            <dl class="facts">
              <dt>series</dt><dd><Num value={head.numSeries} /></dd>
              <dt>label pairs</dt><dd><Num value={head.numLabelPairs} /></dd>
              <dt>chunks</dt><dd><Num value={head.chunkCount} /></dd>
              <dt>from</dt><dd>{head.minTime > head.maxTime ? "nothing yet" : <Time ms={head.minTime} />}</dd>
              <dt>to</dt><dd>{head.minTime > head.maxTime ? "nothing yet" : <Time ms={head.maxTime} />}</dd>
            </dl>
          </section>
          <section class="card">
            <h2>On disk</h2>
            <dl class="facts">
              <dt>log</dt><dd>{bytes(lastOf("logBytes") ?? NaN)}</dd>
              <dt>chunks in no block</dt><dd>{bytes(lastOf("chunksBytes") ?? NaN)}</dd>
              <dt>blocks</dt><dd>{bytes(lastOf("blocksBytes") ?? NaN)}, {list.data?.blocks.length ?? "–"} of them</dd>
              <dt>kept for</dt><dd>{history.data ? (history.data.now.retention > 0 ? span(history.data.now.retention) : "ever") : "–"}{(history.data?.now.retentionBytes ?? 0) > 0 ? `, at most ${bytes(history.data.now.retentionBytes)}` : ""}</dd>
              <dt>oldest sample</dt><dd>{history.data?.now.oldest ? <Time ms={history.data.now.oldest} /> : "none"}</dd>
            </dl>
          </section>
          {list.data && <Written written={list.data.written} />}
        </div>
      )}
      <h2>Blocks</h2>
      <Problem error={list.data ? null : list.error} />
      {bad.data?.badBlocks.slice(0, 20).map((bad, index) => <div class="note" key={index}><strong>Cannot be opened: </strong>{visible(bad, 600)}</div>)}
      {list.data && <Blocks list={list.data} head={head ?? null} />}
      <h2>Cardinality</h2>
      <div class="bar">
        <label class="inline">rows
          <select value={String(limit)} onChange={(event) => change({ limit: event.currentTarget.value === "10" ? null : event.currentTarget.value }, false)}>
            {[...new Set([10, 50, 200, 1_000, 10_000, limit])].sort((a, b) => a - b).map((one) => <option value={String(one)} key={one}>{one}</option>)}
          </select>
        </label>
        <SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text }, false)} placeholder="only rows with this text" label="search cardinality" />
      </div>
      {data && (
        <div class="grid two">
          <StatTable title="Series by metric" rows={data.seriesCountByMetricName} search={search} total={data.headStats.numSeries} link={(name) => `query?g0.expr=${encodeURIComponent(`count by (job) ({__name__=${quote(name)}})`)}&g0.tab=table`} />
          <StatTable title="Values by label" rows={data.labelValueCountByLabelName} search={search} link={(name) => `query?g0.expr=${encodeURIComponent(`topk(20, count by (${/^[a-zA-Z_]\w*$/.test(name) ? name : quote(name)}) ({${/^[a-zA-Z_]\w*$/.test(name) ? name : quote(name)}!=""}))`)}&g0.tab=table`} />
          <StatTable title="Series by label pair" rows={data.seriesCountByLabelValuePair} search={search} total={data.headStats.numSeries} />
          <StatTable title="Bytes by label" rows={data.memoryInBytesByLabelName} search={search} unit="bytes" />
        </div>
      )}
      <Selector />
    </>
  );
}

function StatTable({ title, rows, search, total, link, unit }: { title: string; rows: Stat[]; search: string; total?: number; link?: (name: string) => string; unit?: "bytes" }) {
  const [shown, setShown] = useState(200);
  const fitting = search === "" ? rows : rows.filter((row) => row.name.toLowerCase().includes(search.toLowerCase()));
  const most = total ?? fitting.reduce((max, row) => Math.max(max, row.value), 1);
  return (
    <section class="card">
      <h3>{title} <small>{fitting.length === rows.length ? `top ${rows.length}` : `${fitting.length} of the top ${rows.length}`}</small></h3>
      {fitting.length === 0 && <p class="faint">nothing</p>}
      {fitting.length > 0 && (
        <Table head={["Name", unit === "bytes" ? "Bytes" : "Count", "Share"]} numbers={[1]} label={title}>
          {fitting.slice(0, shown).map((row) => (
            <tr key={row.name}>
              <td class="wrap">{link ? <a href={link(row.name)}>{visible(row.name, 300)}</a> : visible(row.name, 300)}</td>
              <td class="number">{unit === "bytes" ? <Bytes value={row.value} /> : whole(row.value)}</td>
              <td style={{ width: "25%" }}><Meter neutral value={row.value} max={most} label="share" /></td>
            </tr>
          ))}
        </Table>
      )}
      {fitting.length > shown && <button type="button" onClick={() => setShown(shown + 500)}>{shown} of {fitting.length}; more</button>}
    </section>
  );
}

/** Series of a selector by the values of one label. */
function Selector() {
  const [text, setText] = useState("");
  const [label, setLabel] = useState("job");
  const [asked, setAsked] = useState<{ text: string; label: string } | null>(null);
  const [rows, setRows] = useState<Stat[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    if (!asked) return;
    const abort = new AbortController();
    const by = /^[a-zA-Z_]\w*$/.test(asked.label) ? asked.label : quote(asked.label);
    setError(null);
    ask<Result>("query", { query: `topk(100, count by (${by}) (${asked.text}))`, limit: 100 }, { post: true, signal: abort.signal }).then(
      ({ data }) => setRows((data.result as Series[]).map((one) => ({ name: Object.hasOwn(one.metric, asked.label) ? one.metric[asked.label]! : "", value: number(one.value?.[1] ?? "0") }))),
      (problem) => !abort.signal.aborted && setError(problem),
    );
    return () => abort.abort();
  }, [asked]);
  return (
    <section style={{ marginTop: "16px" }}>
      <h2>Series of a selector</h2>
      <form class="bar" onSubmit={(event) => { event.preventDefault(); setAsked({ text, label }); }}>
        <input class="wide mono grow" value={text} onInput={(event) => setText(event.currentTarget.value)} placeholder='{job="node"}' aria-label="selector" required />
        <label class="inline">by <input value={label} onInput={(event) => setLabel(event.currentTarget.value)} size={14} aria-label="label" required /></label>
        <button class="primary">Count</button>
      </form>
      <Problem error={error} />
      {rows && !error && <StatTable title={`Series by ${visible(asked?.label, 100)}`} rows={rows} search="" />}
    </section>
  );
}

/** Bytes that were written for each sample since the start. */
function Written({ written }: { written: BlockList["written"] }) {
  const each = (count: number) => (written.samples > 0 ? `${(count / written.samples).toFixed(2)} bytes a sample` : "–");
  return (
    <section class="card">
      <h2>Written since the start</h2>
      <dl class="facts">
        <dt>log</dt><dd>{bytes(written.logBytes)}, {each(written.logBytes)}</dd>
        <dt>chunks</dt><dd>{bytes(written.chunkBytes)}, {each(written.chunkBytes)}</dd>
        <dt>blocks</dt><dd>{bytes(written.blockBytes)}, {each(written.blockBytes)}</dd>
        <dt>together</dt><dd>{each(written.logBytes + written.chunkBytes + written.blockBytes)}</dd>
      </dl>
    </section>
  );
}

/** What is unusual about a block, in words. */
function stateOf(block: Block, next: string | undefined): string {
  const words = [
    block.isMarked && "marked: not compacted",
    block.fault !== "" && `damaged: ${visible(block.fault, 300)}`,
    block.tombstones > 0 && `${block.tombstones} deletions`,
    block.awaitsUpload && "waits for its upload",
    block.ulid === next && "removed next",
  ];
  return words.filter(Boolean).join("; ");
}

function Blocks({ list, head }: { list: BlockList; head: Tsdb["headStats"] | null }) {
  const { blocks, retention } = list;
  if (blocks.length === 0) return <Empty>No block yet: the first is made some hours after the start.</Empty>;
  const from = Math.min(...blocks.map((block) => block.minTime));
  const to = Math.max(head?.maxTime ?? 0, ...blocks.map((block) => block.maxTime));
  const levels = [...new Set(blocks.map((block) => block.level))].sort((a, b) => b - a);
  const x = (ms: number) => ((ms - from) / Math.max(1, to - from)) * 1000;
  const cut = retention.time > 0 ? to - retention.time : null;
  const isFull = retention.bytes > 0 && retention.usedBytes > 0.9 * retention.bytes;
  const next = isFull ? (retention.nextBySize ?? undefined) : retention.nextByAge?.ulid;
  const color = (block: Block) => (block.isMarked || block.fault !== "" ? "var(--down)" : "var(--series-1)");
  return (
    <>
      <svg viewBox={`0 0 1000 ${levels.length * 26 + 30}`} width="100%" height={levels.length * 26 + 30} preserveAspectRatio="none" role="img" aria-label={`${blocks.length} blocks on a time line; the table below has each`}>
        {blocks.map((block) => (
          <rect key={block.ulid} x={x(block.minTime)} y={levels.indexOf(block.level) * 26 + 2} width={Math.max(1.5, x(block.maxTime) - x(block.minTime) - 1)} height="20" fill={color(block)} fill-opacity={block.ulid === next ? 0.5 : 1} rx="2"><title>{`${block.ulid}, level ${block.level}, ${bytes(block.bytes)}. ${stateOf(block, next)}`}</title></rect>
        ))}
        {head && head.maxTime > head.minTime && <rect x={Math.max(0, x(head.minTime))} y={levels.length * 26 + 4} width={Math.max(2, x(head.maxTime) - Math.max(0, x(head.minTime)))} height="14" fill="var(--series-3)" rx="2"><title>log and chunks</title></rect>}
        {cut !== null && cut > from && <line x1={x(cut)} x2={x(cut)} y1="0" y2={levels.length * 26 + 30} stroke="var(--down)" stroke-width="2" />}
      </svg>
      <p class="faint">Levels from top to bottom: {levels.join(", ")}; below them what is in no block yet.{cut !== null && cut > from ? " Left of the line is what retention removes next." : ""}</p>
      <dl class="facts">
        <dt>next for its age</dt><dd>{retention.nextByAge ? <><span class="mono">{visible(retention.nextByAge.ulid, 40)}</span>, once a block ends at <Time ms={retention.nextByAge.at} /></> : "nothing: kept for ever"}</dd>
        <dt>next for its size</dt><dd>{retention.nextBySize ? <><span class="mono">{visible(retention.nextBySize, 40)}</span>, beyond {bytes(retention.bytes)}; used are {bytes(retention.usedBytes)}</> : `nothing: no limit; used are ${bytes(retention.usedBytes)}`}</dd>
      </dl>
      <details>
        <summary>{blocks.length} blocks</summary>
        <Table head={["Block", "Level", "From", "To", "Spans", "Size", "Series", "Samples", "Chunks", "State"]} numbers={[1, 4, 5, 6, 7, 8]} label="blocks">
          {blocks.slice(-500).reverse().map((block) => (
            <tr key={block.ulid}>
              <td class="mono">{visible(block.ulid, 40)}</td>
              <td class="number">{block.level}</td>
              <td><Time ms={block.minTime} /></td>
              <td><Time ms={block.maxTime} /></td>
              <td class="number">{span(block.maxTime - block.minTime)}</td>
              <td class="number">{bytes(block.bytes)}</td>
              <td class="number"><Num value={block.series} /></td>
              <td class="number"><Num value={block.samples} /></td>
              <td class="number"><Num value={block.chunks} /></td>
              <td class="wrap">{stateOf(block, next)}</td>
            </tr>
          ))}
        </Table>
      </details>
    </>
  );
}
