// The pages /config, /flags and /status.
import { useMemo, useState } from "preact/hooks";
import { Bytes, Copy, Empty, Num, Problem, SearchBox, Segments, State, Table, Time, Waiting } from "../components/basic";
import { Yaml, YamlLine } from "../components/yaml";
import { call, get } from "../lib/api";
import { apiTime, span, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { differences } from "../lib/diff";
import { visible } from "../lib/text";

export function FlagsPage() {
  const [params, change] = useAddress();
  const search = params.get("search") ?? "";
  const { data, error } = usePoll("flags", 0, (signal) => get<Record<string, string>>("status/flags", {}, { signal }));
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const rows = Object.keys(data).sort().filter((name) => `--${name}=${data[name]}`.toLowerCase().includes(search.toLowerCase()));
  return (
    <>
      <div class="bar"><SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text }, false)} placeholder="name or value" label="search flags" /><span class="faint" role="status">{rows.length} of {Object.keys(data).length}</span></div>
      <Table head={["Flag", "Value"]} label="flags">
        {rows.map((name) => <tr key={name}><th scope="row" class="mono">--{visible(name, 200)}</th><td class="wrap mono">{visible(data[name], 2000) || <span class="faint">empty</span>}</td></tr>)}
      </Table>
      {rows.length === 0 && <Empty>No flag has this in its name or value.</Empty>}
    </>
  );
}

interface OnDisk {
  file: string;
  yaml: string | null;
  error: string | null;
}

export function ConfigPage() {
  const [params, change] = useAddress();
  const view = params.get("view") === "file" ? "file" : "running";
  const search = params.get("search") ?? "";
  const { data, error } = usePoll("config", 0, (signal) => get<{ yaml: string }>("status/config", {}, { signal }));
  const disk = usePoll("disk", view === "file" ? 5_000 : 0, (signal) => get<OnDisk>("ringscrape/config/file", {}, { signal }));
  const features = usePoll("features", 0, (signal) => get<any>("features", {}, { signal }));
  const [answer, setAnswer] = useState<string | null>(null);
  const lines = useMemo(() => (data?.yaml ?? "").split("\n"), [data]);
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const reload = async () => {
    const response = await call("-/reload", {}, { post: true }).catch(() => null);
    if (response?.ok) return location.reload();
    setAnswer(response === null ? "The server does not answer." : (await response.text()).slice(0, 2000));
  };
  const outline = lines.flatMap((line, index) => {
    const found = /^- job_name: (.*)$/.exec(line) ?? /^([a-z_]+):/.exec(line);
    return found ? [[found[1]!, index] as const] : [];
  });
  const found = search === "" ? [] : lines.flatMap((line, index) => (line.toLowerCase().includes(search.toLowerCase()) ? [index] : [])).slice(0, 500);
  return (
    <>
      <div class="bar">
        <Segments label="view" of={[["running", "In force"], ["file", "Difference to the file"]] as const} value={view} onChange={(next) => change({ view: next === "running" ? null : next })} />
        {view === "running" && <SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text }, false)} placeholder="lines with this text" label="search the configuration" />}
        <Copy text={data.yaml}>Copy</Copy>
        {disk.data && disk.data.yaml !== null && disk.data.yaml !== data.yaml && <span class="warn-text state">▲ the file on disk is another one</span>}
        {disk.data?.error && <span class="down state">✕ the file on disk has a mistake</span>}
      </div>
      {view === "running" ? (
        <>
          {search !== "" && (
            <pre tabIndex={0} role="region" aria-label="found lines">{found.length === 0 ? "no line has this" : found.map((index) => <span key={index}><span class="c">{String(index + 1).padStart(5)} </span><YamlLine text={lines[index]!} />{"\n"}</span>)}</pre>
          )}
          {search === "" && (
            <>
              <details><summary>outline: {outline.length} parts</summary>{outline.slice(0, 500).map(([name, index]) => <span class="label" key={index}>{visible(name, 100)} <span class="faint">line {index + 1}</span></span>)}</details>
              <Yaml text={data.yaml} label="configuration in force" />
            </>
          )}
        </>
      ) : (
        <DiskView running={data.yaml} disk={disk.data} error={disk.error}>
          {features.data?.api?.lifecycle === true && <button type="button" class="primary" disabled={disk.data?.yaml === null} onClick={() => void reload()}>Load the file now</button>}
          {features.data?.api?.lifecycle === false && <p class="faint">The server takes the file over at SIGHUP; by a button only with --web.enable-lifecycle.</p>}
          {answer && <p role="status">{visible(answer, 2000)}</p>}
        </DiskView>
      )}
    </>
  );
}

function DiskView({ running, disk, error, children }: { running: string; disk: OnDisk | null; error: unknown; children: preact.ComponentChildren }) {
  const lines = useMemo(() => (disk?.yaml ? differences(running.split("\n"), disk.yaml.split("\n")) : []), [running, disk?.yaml]);
  if (!disk) return error ? <Problem error={error} /> : <Waiting />;
  if (disk.error !== null) return <div class="note"><strong>The file would be refused. </strong><span class="expr">{visible(disk.error, 6000)}</span></div>;
  const changed = lines.filter((line) => line.kind !== " ").length;
  return (
    <>
      <p class="wrap">{changed === 0 ? <><State of="good" word="" /> {visible(disk.file, 300)} says the same as what is in force.</> : `${changed} lines of ${visible(disk.file, 300)} differ from what is in force, with all that is inherited written out:`}</p>
      {changed > 0 && children}
      {changed > 0 && (
        <pre tabIndex={0} role="region" aria-label="difference">
          {lines.map((line, index) =>
            line.kind === "…" ? <span key={index} class="c">{line.text}{"\n"}</span> : (
              <span key={index} class={line.kind === "+" ? "up" : line.kind === "-" ? "down" : ""}>{line.kind} {visible(line.text, 2000)}{"\n"}</span>
            ),
          )}
        </pre>
      )}
    </>
  );
}

interface Endpoint {
  name: string;
  url: string;
  lagSeconds: number | null;
  lagBytes: number;
  pending: number;
  rate: number;
  sent: number;
  retried: number;
  losses: Record<string, number>;
  equalEndpoints: number;
  filesLost: number;
  notSent: number;
  lastError: string;
}

interface Bucket {
  bucket: string;
  uploads: number;
  uploadFailures: number;
  bytesUploaded: number;
  blocksWaiting: number;
  blocksOverlapping: number;
  corruptedBlocks: number;
  uploadedUntil: string | null;
  lastUpload: string | null;
  lastError: string;
}

/** Blocks in object storage; nothing where the configuration has no such section. */
function ObjectStorage() {
  const { data } = usePoll("buckets", 15_000, (signal) => get<{ objectStorage: Bucket | null }>("ringscrape/status/object_storage", {}, { signal }));
  const one = data?.objectStorage;
  if (!one) return null;
  const time = (text: string | null) => {
    const ms = text === null ? null : apiTime(text);
    return ms === null ? <span class="faint">never</span> : <Time ms={ms} />;
  };
  return (
    <>
      <h2>Object storage</h2>
      <Table head={["Bucket", "Waiting", "Uploaded", "Bytes", "Until", "Last upload", "Failed", "Overlapping", "Last error"]} numbers={[1, 2, 3, 6, 7]} label="object storage">
        <tr>
          <th scope="row" class="wrap">{visible(one.bucket, 300)}</th>
          <td class="number"><span class={one.blocksWaiting > 2 ? "warn-text state" : ""}><Num value={one.blocksWaiting} /></span></td>
          <td class="number"><Num value={one.uploads} /></td>
          <td class="number"><Bytes value={one.bytesUploaded} /></td>
          <td>{time(one.uploadedUntil)}</td>
          <td>{time(one.lastUpload)}</td>
          <td class="number"><Num value={one.uploadFailures + one.corruptedBlocks} /></td>
          <td class="number"><Num value={one.blocksOverlapping} /></td>
          <td class="wrap error">{visible(one.lastError, 600)}</td>
        </tr>
      </Table>
    </>
  );
}

export function StatusPage() {
  const build = usePoll("build", 0, (signal) => get<Record<string, unknown>>("status/buildinfo", {}, { signal }));
  const runtime = usePoll("runtime", 15_000, (signal) => get<Record<string, unknown>>("status/runtimeinfo", {}, { signal }));
  const remote = usePoll("remote", 15_000, (signal) => get<{ endpoints: Endpoint[] }>("ringscrape/status/remote_write", {}, { signal }));
  const show = (name: string, value: unknown) => {
    const ms = typeof value === "string" && /Time$/.test(name) ? apiTime(value) : null;
    return ms !== null ? <Time ms={ms} /> : typeof value === "number" ? whole(value) : visible(value, 600);
  };
  const facts = (title: string, data: Record<string, unknown> | null) => (
    <section class="card">
      <h2>{title}</h2>
      {!data && <Waiting />}
      {data && <dl class="facts">{Object.keys(data).filter((name) => data[name] !== "").map((name) => <><dt>{visible(name, 100)}</dt><dd>{show(name, data[name])}</dd></>)}</dl>}
    </section>
  );
  return (
    <>
      <Problem error={build.data ? null : build.error} />
      <div class="grid two">{facts("Build", build.data)}{facts("Runtime", runtime.data)}</div>
      <h2>Remote write</h2>
      {!remote.data && (remote.error ? <Problem error={remote.error} /> : <Waiting />)}
      {remote.data?.endpoints.length === 0 && <Empty>The configuration has no section remote_write: samples stay here.</Empty>}
      {remote.data && remote.data.endpoints.length > 0 && (
        <Table head={["Name", "URL", "Behind", "Pending", "Per second", "Sent", "Retried", "Lost", "Not sent", "Last error"]} numbers={[2, 3, 4, 5, 6, 8]} label="remote write">
          {remote.data.endpoints.map((one) => (
            <tr key={`${one.name} ${one.url}`}>
              <th scope="row">{visible(one.name, 100)}</th>
              <td class="wrap">{visible(one.url, 300)}{one.equalEndpoints > 1 && <><br /><span class="faint">read for together with {one.equalEndpoints - 1} more</span></>}</td>
              <td class="number">{one.lagSeconds === null ? <span class="faint">nothing accepted yet</span> : <span class={one.lagSeconds > 30 ? "warn-text state" : ""}>{span(one.lagSeconds * 1000)}</span>}<br /><Bytes value={one.lagBytes} /></td>
              <td class="number"><Num value={one.pending} /></td>
              <td class="number"><Num value={one.rate} /></td>
              <td class="number"><Num value={one.sent} /></td>
              <td class="number"><Num value={one.retried} /></td>
              <td class={Object.keys(one.losses).length > 0 ? "down" : ""}>{Object.entries(one.losses).map(([reason, count]) => `${whole(count)} ${reason.replace(/_/g, " ")}`).join(", ") || "0"}</td>
              <td class="number"><Num value={one.notSent} /></td>
              <td class="wrap error">{visible(one.lastError, 600)}</td>
            </tr>
          ))}
        </Table>
      )}
      <ObjectStorage />
    </>
  );
}

/** What stands in for the query page in agent mode. */
export function AgentPage() {
  return (
    <>
      <p>This process runs in agent mode: it scrapes its <a href="targets">targets</a> and sends what it finds to the endpoints below. Queries, rules and alerts are for those that receive it. The <a href="overview">overview</a> has its figures.</p>
      <StatusPage />
    </>
  );
}
