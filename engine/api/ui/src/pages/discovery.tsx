// The page /service-discovery: what became of each discovered address, and why, rule by rule.
import { useEffect, useState } from "preact/hooks";
import { Empty, LabelSet, Problem, SearchBox, Table, Waiting } from "../components/basic";
import { get } from "../lib/api";
import { span, time, whole } from "../lib/format";
import { useAddress, useDebounced } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { pairs, visible, type Labels } from "../lib/text";
import { RelabelSteps } from "./target";

interface Pool {
  name: string;
  discovered: number;
  active: number;
  dropped: number;
  duplicates: number;
  failed: number;
  leaving: number;
  others: number;
  overLimit: number;
  remembered: number;
  othersListed: number;
  sourceErrors: string[];
  sources: Source[];
}

/** A section of a job, and its last attempt to get its list. Times are Unix seconds. */
interface Source {
  mechanism: string;
  targets: number;
  attempts: number;
  failures: number;
  lastAttempt: number | null;
  lastSeconds: number | null;
  lastRequests: number;
  failingSince: number | null;
}

interface Row {
  pool: string;
  outcome: string;
  discoveredLabels: Labels;
  labels: Labels | null;
  id: string | null;
  error: string;
  owners: string[];
}

interface Discovery {
  pools: Pool[];
  total: number;
  offset: number;
  rows: Row[];
}

const OUTCOMES: [string, string, (pool: Pool) => number][] = [
  ["active", "active", (pool) => pool.active - pool.leaving - pool.overLimit],
  ["relabelling", "dropped by relabelling", (pool) => pool.dropped],
  ["duplicate", "duplicates", (pool) => pool.duplicates],
  ["limit", "over target_limit", (pool) => pool.overLimit],
  ["failed", "cannot be targets", (pool) => pool.failed],
  ["leaving", "on their way to others", (pool) => pool.leaving],
  ["other-member", "of other members", (pool) => pool.others],
];

const PAGE = 100;

export function DiscoveryPage() {
  const [params, change] = useAddress();
  const pool = params.get("pool") ?? params.get("job") ?? "";
  const outcome = params.get("state") ?? "";
  const search = params.get("search") ?? "";
  const offset = Math.max(0, Number(params.get("offset") ?? "0") || 0);
  const wanted = useDebounced(search, 250);
  const question = { pool, state: outcome, search: wanted, offset, limit: PAGE };
  const { data, error } = usePoll(`discovery ${JSON.stringify(question)}`, 15_000, (signal) => get<Discovery>("ringscrape/discovery", question, { signal }));
  const pick = (name: string, value: string | null) => change({ [name]: value, offset: null, job: null });
  return (
    <>
      <Problem error={error} />
      <div class="bar">
        <label class="inline">job
          <select value={pool} onChange={(event) => pick("pool", event.currentTarget.value)}>
            <option value="">all jobs</option>
            {(data?.pools ?? []).map((one) => <option value={one.name} key={one.name}>{visible(one.name, 100)}</option>)}
            {pool !== "" && !data?.pools.some((one) => one.name === pool) && <option value={pool}>{visible(pool, 100)}</option>}
          </select>
        </label>
        <label class="inline">outcome
          <select value={outcome} onChange={(event) => pick("state", event.currentTarget.value)}>
            <option value="">all</option>
            {OUTCOMES.map(([value, text]) => <option value={value} key={value}>{text}</option>)}
          </select>
        </label>
        <SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text, offset: null }, false)} placeholder="label=value" label="search addresses" />
      </div>
      {!data && !error && <Waiting />}
      {data && <Funnel pools={data.pools.filter((one) => pool === "" || one.name === pool)} onPick={(name, state) => change({ pool: name, state, offset: null, job: null })} />}
      {data && <Sources pools={data.pools.filter((one) => pool === "" || one.name === pool)} />}
      {data && (
        <>
          <h2>Addresses <small role="status">{whole(data.total)} {data.total === 1 ? "fits" : "fit"}</small></h2>
          {data.rows.length === 0 && <Empty>No address fits these filters.</Empty>}
          {data.rows.length > 0 && (
            <Table head={["Outcome", "Discovered labels", "Target labels", ""]} label="addresses">
              {data.rows.map((row, index) => <AddressRow row={row} key={`${data.offset} ${index}`} />)}
            </Table>
          )}
          {data.total > PAGE && (
            <div class="pages">
              <button type="button" disabled={offset === 0} onClick={() => change({ offset: offset - PAGE > 0 ? String(offset - PAGE) : null })}>← previous</button>
              <span>{whole(offset + 1)} to {whole(Math.min(offset + PAGE, data.total))} of {whole(data.total)}</span>
              <button type="button" disabled={offset + PAGE >= data.total} onClick={() => change({ offset: String(offset + PAGE) })}>next →</button>
            </div>
          )}
        </>
      )}
    </>
  );
}

function Funnel({ pools, onPick }: { pools: Pool[]; onPick: (pool: string, outcome: string) => void }) {
  const [shown, setShown] = useState(30);
  return (
    <>
      {pools.flatMap((pool) => pool.sourceErrors.map((error) => [pool.name, error] as const)).slice(0, 10).map(([name, error], index) => (
        <div class="note" key={index}><strong>Discovery of {visible(name, 100)}: </strong>{visible(error, 800)}</div>
      ))}
      <Table head={["Job", "Discovered", ...OUTCOMES.map(([, text]) => text)]} numbers={[1, 2, 3, 4, 5, 6, 7, 8]} label="outcomes by job">
        {pools.slice(0, shown).map((pool) => (
          <tr key={pool.name}>
            <th scope="row">{visible(pool.name, 200)}</th>
            <td class="number">{whole(pool.discovered)}</td>
            {OUTCOMES.map(([value, text, count]) => {
              const number = count(pool);
              return <td class="number" key={value}>{number > 0 ? <button type="button" class="plain" aria-label={`${whole(number)} ${text} of ${visible(pool.name, 100)}`} onClick={() => onPick(pool.name, value)}>{whole(number)}</button> : <span class="faint">0</span>}</td>;
            })}
          </tr>
        ))}
      </Table>
      {pools.length > shown && <button type="button" onClick={() => setShown(shown + 100)}>{shown} of {pools.length} jobs; more</button>}
      {pools.some((pool) => pool.remembered < pool.dropped + pool.duplicates) && <p class="faint">Not all dropped addresses are remembered; see keep_dropped_targets.</p>}
    </>
  );
}

/** When each mechanism was asked last, how long that took and how many requests it made. */
function Sources({ pools }: { pools: Pool[] }) {
  const [shown, setShown] = useState(30);
  const rows = pools.flatMap((pool) => pool.sources.filter((source) => source.attempts > 0).map((source) => ({ pool: pool.name, source })));
  if (rows.length === 0) return null;
  return (
    <>
      <h2>Sources</h2>
      <Table head={["Job", "Mechanism", "Addresses", "Last attempt", "Took", "Requests", "Attempts", "Failed", "Failing since"]} numbers={[2, 4, 5, 6, 7]} label="sources">
        {rows.slice(0, shown).map(({ pool, source }, index) => (
          <tr key={`${pool} ${index}`}>
            <th scope="row">{visible(pool, 200)}</th>
            <td>{visible(source.mechanism, 60)}</td>
            <td class="number">{whole(source.targets)}</td>
            <td>{source.lastAttempt === null ? "" : time(source.lastAttempt * 1000)}</td>
            <td class="number">{source.lastSeconds === null ? "" : span(source.lastSeconds * 1000)}</td>
            <td class="number">{source.lastRequests > 0 ? whole(source.lastRequests) : ""}</td>
            <td class="number">{whole(source.attempts)}</td>
            <td class="number">{whole(source.failures)}</td>
            <td>{source.failingSince !== null && <span class="error">{time(source.failingSince * 1000)}</span>}</td>
          </tr>
        ))}
      </Table>
      {rows.length > shown && <button type="button" onClick={() => setShown(shown + 100)}>{shown} of {rows.length} sources; more</button>}
    </>
  );
}

function AddressRow({ row }: { row: Row }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <tr>
        <td><span class="reason">{visible(row.outcome, 60)}</span><br /><span class="faint">{visible(row.pool, 100)}</span>{row.error !== "" && <div class="error">{visible(row.error, 500)}</div>}{row.owners.length > 0 && <div>{row.owners.slice(0, 5).map((owner) => visible(owner, 60)).join(", ")}</div>}</td>
        <td class="wrap"><LabelSet labels={row.discoveredLabels} /></td>
        <td class="wrap">{row.labels && <LabelSet labels={row.labels} />}</td>
        <td>{row.id && <a class="act" href={`target?id=${row.id}`}>target</a>} <button type="button" aria-expanded={open} onClick={() => setOpen(!open)}>explain</button></td>
      </tr>
      {open && <tr><td colSpan={4}><Explanation pool={row.pool} labels={row.discoveredLabels} /></td></tr>}
    </>
  );
}

interface Step {
  rule: string;
  output: Labels;
  keep: boolean;
}

/** Rule by rule, what relabelling does to these labels. */
function Explanation({ pool, labels }: { pool: string; labels: Labels }) {
  const [steps, setSteps] = useState<Step[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    const abort = new AbortController();
    const given = Object.fromEntries(pairs(labels));
    get<{ steps: Step[] }>("targets/relabel_steps", { scrapePool: pool, labels: JSON.stringify(given) }, { signal: abort.signal }).then(
      (found) => setSteps(found.steps),
      (problem) => !abort.signal.aborted && setError(problem),
    );
    return () => abort.abort();
  }, []);
  if (!steps) return error ? <Problem error={error} /> : <Waiting />;
  const same = (one: Labels, other: Labels) => JSON.stringify(pairs(one)) === JSON.stringify(pairs(other));
  return <RelabelSteps begin={labels} steps={steps.map((step, index) => ({ rule: step.rule, labels: step.output ?? {}, keep: step.keep, changed: !same(step.output ?? {}, index === 0 ? labels : (steps[index - 1]!.output ?? {})) }))} />;
}
