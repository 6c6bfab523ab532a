// The pages /alerts and /rules.
import { useMemo, useState } from "preact/hooks";
import { Age, Chip, Copy, Empty, LabelSet, Link, Meter, MultiSelect, Num, Problem, SearchBox, State, Table, Time, Waiting } from "../components/basic";
import { Refresh } from "../components/refresh";
import { Plot } from "../components/plot";
import { ask, get } from "../lib/api";
import { apiTime, duration, short, span, time, whole } from "../lib/format";
import { useAddress } from "../lib/hooks";
import { usePoll } from "../lib/poll";
import { grid, number, onGrid, type Result, type Series } from "../lib/results";
import { pairs, quote, safeLink, visible, type Labels } from "../lib/text";

interface Alert {
  labels: Labels;
  annotations: Labels;
  state: string;
  activeAt: string;
  value: string;
  keepFiringSince?: string;
}

interface Rule {
  name: string;
  query: string;
  type: "alerting" | "recording";
  health: string;
  state?: string;
  duration?: number;
  keepFiringFor?: number;
  labels?: Labels;
  annotations?: Labels;
  alerts?: Alert[];
  lastError?: string;
  evaluationTime: number;
  lastEvaluation: string;
}

interface RuleGroup {
  name: string;
  file: string;
  interval: number;
  limit: number;
  evaluationTime: number;
  lastEvaluation: string;
  rules: Rule[];
}

interface Alertmanager {
  url: string;
  queueLength?: number;
  sent?: number;
  errors?: number;
  dropped?: number;
}

/** Alerts of one rule, and rules and groups, that are drawn at first. */
const ALERTS_STEP = 100;
const RULES_STEP = 200;

function holds(text: string, needle: string): boolean {
  return text.toLowerCase().includes(needle);
}

function ruleFits(rule: Rule, group: RuleGroup, needle: string): boolean {
  if (needle === "") return true;
  const inLabels = (labels: Labels | undefined) => pairs(labels).some(([name, value]) => holds(`${name}=${value}`, needle));
  return holds(rule.name, needle) || holds(rule.query, needle) || holds(group.name, needle) || holds(group.file, needle) || holds(rule.lastError ?? "", needle) || inLabels(rule.labels) || (rule.alerts ?? []).some((alert) => inLabels(alert.labels));
}

function Expression({ query }: { query: string }) {
  return <a class="expr" href={`query?g0.expr=${encodeURIComponent(query)}&g0.tab=table`}>{visible(query, 4000)}</a>;
}

function Annotations({ annotations }: { annotations: Labels | undefined }) {
  const all = pairs(annotations);
  if (all.length === 0) return null;
  return <dl class="facts">{all.map(([name, value]) => <><dt>{visible(name, 200)}</dt><dd><AnnotationText text={value} /></dd></>)}</dl>;
}

/** Text in which addresses of web pages are links. */
function AnnotationText({ text }: { text: string }) {
  const parts = visible(text, 4000).split(/(https?:\/\/[^\s<>"']+)/);
  return <>{parts.map((part, index) => (safeLink(part) ? <Link href={part} key={index}>{part}</Link> : part))}</>;
}

function silenceLink(url: string, labels: Labels): string | null {
  const base = safeLink(url);
  if (base === null) return null;
  const filter = `{${pairs(labels).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(",")}}`;
  return `${base.replace(/\/api\/v2\/alerts$/, "").replace(/\/$/, "")}/#/silences/new?filter=${encodeURIComponent(filter)}`;
}

export function AlertsPage() {
  const [params, change] = useAddress();
  const [interval, setInterval] = useState(15_000);
  const { data, error, at, refresh } = usePoll("alerts", interval, async (signal) => {
    const [rules, managers] = await Promise.all([
      get<{ groups: RuleGroup[] }>("rules", { type: "alert" }, { signal }),
      get<{ activeAlertmanagers: Alertmanager[]; droppedAlertmanagers: Alertmanager[]; errors: string[] }>("alertmanagers", {}, { signal }),
    ]);
    return { groups: rules.groups, managers };
  });
  const states = params.getAll("state").filter((one) => one !== "");
  const search = params.get("search") ?? "";
  const needle = search.trim().toLowerCase();
  // Rules that were opened: only those ask for their past.
  const [opened, setOpened] = useState<ReadonlySet<string>>(new Set());
  const key = ({ group, rule }: { group: RuleGroup; rule: Rule }) => `${group.file} ${group.name} ${rule.name} ${rule.query}`;
  const all = useMemo(() => (data?.groups ?? []).flatMap((group) => group.rules.map((rule) => ({ group, rule }))), [data]);
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const counts: Record<string, number> = { firing: 0, pending: 0, inactive: 0, unknown: 0 };
  for (const { rule } of all) counts[rule.state ?? "unknown"] = (counts[rule.state ?? "unknown"] ?? 0) + 1;
  const rank = (state: string | undefined) => ["firing", "pending", "unknown", "inactive"].indexOf(state ?? "unknown");
  const shown = all
    .filter(({ rule, group }) => (states.length === 0 || states.includes(rule.state ?? "unknown")) && ruleFits(rule, group, needle))
    .sort((a, b) => rank(a.rule.state) - rank(b.rule.state));
  const manager = data.managers.activeAlertmanagers[0]?.url;
  return (
    <>
      {error !== null && <Problem error={error} />}
      <div class="bar">
        {["firing", "pending", "inactive"].map((state) => (
          <button type="button" key={state} aria-pressed={states.includes(state)} onClick={() => change({ state: states.includes(state) ? states.filter((one) => one !== state) : [...states, state] })}>
            {states.includes(state) ? `${state} ${counts[state]}` : <><State of={state} /> {whole(counts[state] ?? 0)}</>}
          </button>
        ))}
        <SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text }, false)} placeholder="name, expression, label=value, file" label="search alerts" />
        <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
      </div>
      {all.length === 0 && <Empty>No alerting rules. They come from the files of rule_files.</Empty>}
      {all.length > 0 && shown.length === 0 && <Empty>No rule fits these filters.</Empty>}
      {shown.slice(0, RULES_STEP).map(({ rule, group }, index) => (
        <details class="group card" style={{ marginBottom: "6px" }} key={`${group.file} ${group.name} ${rule.name} ${index}`} open={rule.state === "firing" && shown.length <= 20} onToggle={(event) => event.currentTarget.open && !opened.has(key({ group, rule })) && setOpened(new Set(opened).add(key({ group, rule })))}>
          <summary>
            <State of={rule.state ?? "unknown"} /> <strong>{visible(rule.name, 300)}</strong> <span class="faint">{(rule.alerts ?? []).length > 0 ? `${whole((rule.alerts ?? []).length)} ${rule.alerts!.length === 1 ? "alert" : "alerts"} · ` : ""}{visible(group.name, 200)}</span>
          </summary>
          <p><Expression query={rule.query} />{(rule.duration ?? 0) > 0 && <span class="faint"> for {duration(rule.duration! * 1000)}</span>} <Copy text={rule.name}>Copy name</Copy></p>
          <LabelSet labels={rule.labels ?? {}} />
          <Annotations annotations={rule.annotations} />
          {rule.lastError && <div class="note">{visible(rule.lastError, 1000)}</div>}
          <AlertTable alerts={rule.alerts ?? []} manager={manager} />
          {opened.has(key({ group, rule })) || (rule.state === "firing" && shown.length <= 20) ? <AlertHistory name={rule.name} /> : null}
        </details>
      ))}
      {shown.length > RULES_STEP && <p class="faint">{RULES_STEP} of {shown.length} rules; narrow the search to see the others.</p>}
      <h2>Alertmanagers <small>{data.managers.activeAlertmanagers.length} get alerts</small></h2>
      {data.managers.errors.map((one, index) => <div class="note" key={index}>{visible(one, 600)}</div>)}
      {data.managers.activeAlertmanagers.length > 0 && (
        <Table head={["Alertmanager", "Waiting", "Sent", "Errors", "Dropped"]} numbers={[1, 2, 3, 4]} label="alertmanagers">
          {data.managers.activeAlertmanagers.map((one) => (
            <tr key={one.url}>
              <td class="wrap"><Link href={one.url.replace(/\/api\/v2\/alerts$/, "/")}>{visible(one.url, 300)}</Link></td>
              <td class="number">{one.queueLength ?? "–"}</td>
              <td class="number"><Num value={one.sent ?? 0} /></td>
              <td class={`number ${(one.errors ?? 0) > 0 ? "down" : ""}`}><Num value={one.errors ?? 0} /></td>
              <td class={`number ${(one.dropped ?? 0) > 0 ? "down" : ""}`}><Num value={one.dropped ?? 0} /></td>
            </tr>
          ))}
        </Table>
      )}
    </>
  );
}

const HISTORY_MS = 86_400_000;
const HISTORY_STEP_MS = 600_000;

/** How many alerts of a name were pending and firing in the last 24 hours; it asks once it can be seen. */
function AlertHistory({ name }: { name: string }) {
  const { data, error } = usePoll(`alert history ${name}`, HISTORY_STEP_MS, async (signal) => {
    // The last step is the one that goes on.
    const end = Math.ceil(Date.now() / HISTORY_STEP_MS) * HISTORY_STEP_MS;
    const query = `count by (alertstate) (max_over_time(ALERTS{alertname=${quote(name)}}[10m]))`;
    const params = { query, start: (end - HISTORY_MS) / 1000, end: end / 1000, step: HISTORY_STEP_MS / 1000 };
    const { data: found } = await ask<Result>("query_range", params, { post: true, signal });
    const times = grid(end - HISTORY_MS, end, HISTORY_STEP_MS);
    const of = (state: string) => onGrid((found.result as Series[]).find((one) => one.metric.alertstate === state)?.values ?? [], times, HISTORY_STEP_MS);
    return { times, pending: of("pending"), firing: of("firing") };
  });
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const states = [["firing", data.firing, "down"], ["pending", data.pending, "warn"]] as const;
  if (states.every(([, values]) => values.every((value) => value === null))) return <p class="faint">Not pending or firing in the last 24 hours.</p>;
  const width = 1000 / data.times.length;
  const known = states.map(([state, values]) => `${state} ${values.filter((value) => value !== null).length * HISTORY_STEP_MS / 60_000} of 1440 minutes`).join(", ");
  return (
    <figure class="alert-history">
      <svg viewBox="0 0 1000 36" width="100%" height="36" preserveAspectRatio="none" role="img" aria-label={`the last 24 hours: ${known}`}>
        {states.map(([state, values, colour], row) => values.map((value, index) => value !== null && (
          <rect key={`${state} ${index}`} x={index * width} y={row * 18 + 2} width={width} height="14" fill={`var(--${colour})`}>
            <title>{`${time(data.times[index]! * 1000)}: ${whole(value)} ${state}`}</title>
          </rect>
        )))}
      </svg>
      <figcaption class="faint">Last 24 hours, above firing, below pending: {known}.</figcaption>
    </figure>
  );
}

function AlertTable({ alerts, manager }: { alerts: Alert[]; manager: string | undefined }) {
  const [shown, setShown] = useState(ALERTS_STEP);
  if (alerts.length === 0) return null;
  return (
    <>
      <Table head={["State", "Labels", "Since", "Value", "Annotations", ""]} numbers={[3]} label="alerts of this rule">
        {alerts.slice(0, shown).map((alert, index) => {
          const silence = manager === undefined ? null : silenceLink(manager, alert.labels);
          return (
            <tr key={index}>
              <td><State of={alert.state} />{alert.keepFiringSince && <span class="faint"> kept firing</span>}</td>
              <td class="wrap"><LabelSet labels={alert.labels} /></td>
              <td><Time ms={apiTime(alert.activeAt)} /><br /><Age ms={apiTime(alert.activeAt)} /></td>
              <td class="number" title={alert.value}>{short(number(alert.value))}</td>
              <td class="wrap"><Annotations annotations={alert.annotations} /></td>
              <td>{silence && <a href={silence} rel="noopener noreferrer">silence</a>}</td>
            </tr>
          );
        })}
      </Table>
      {alerts.length > shown && <button type="button" onClick={() => setShown(shown + ALERTS_STEP)}>{shown} of {whole(alerts.length)} alerts; more</button>}
    </>
  );
}

export function RulesPage() {
  const [params, change] = useAddress();
  const [interval, setInterval] = useState(15_000);
  const { data, error, at, refresh } = usePoll("rules", interval, (signal) => get<{ groups: RuleGroup[] }>("rules", { exclude_alerts: "true" }, { signal }));
  const health = params.getAll("health").concat(params.getAll("state")).filter((one) => one !== "");
  const files = params.getAll("file");
  const group = params.get("group");
  const search = params.get("search") ?? "";
  const needle = search.trim().toLowerCase();
  const [shown, setShown] = useState(RULES_STEP);
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const rules = data.groups.flatMap((group) => group.rules);
  const count = (of: string) => rules.filter((rule) => rule.health === of).length;
  const allFiles = [...new Set(data.groups.map((group) => group.file))].sort();
  const names = new Set(rules.filter((rule) => rule.type === "recording").map((rule) => rule.name));
  let left = shown;
  const groups = data.groups
    .filter((one) => (files.length === 0 || files.includes(one.file)) && (group === null || one.name === group))
    .map((group) => ({ group, rules: group.rules.filter((rule) => (health.length === 0 || health.includes(rule.health)) && ruleFits(rule, group, needle)) }))
    .filter((one) => one.rules.length > 0);
  const total = groups.reduce((sum, one) => sum + one.rules.length, 0);
  const drawn = groups.filter((one) => {
    left -= one.rules.length;
    return left + one.rules.length > 0;
  });
  return (
    <>
      {error !== null && <Problem error={error} />}
      <div class="bar">
        {([["err", "failing"], ["unknown", "not evaluated"], ["ok", "ok"]] as const).map(([one, word]) => (
          <button type="button" key={one} aria-pressed={health.includes(one)} onClick={() => change({ health: health.includes(one) ? health.filter((other) => other !== one) : [...health, one], state: null })}>
            {health.includes(one) ? `${word} ${count(one)}` : <><State of={one} word={word} /> {whole(count(one))}</>}
          </button>
        ))}
        <MultiSelect label="files" of={allFiles.map((file): [string, string] => [file, file])} chosen={files} onChange={(file) => change({ file })} />
        <SearchBox value={search} onInput={(text) => change({ search: text === "" ? null : text }, false)} placeholder="name, expression, label=value, group or error" label="search rules" />
        <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
      </div>
      <div class="bar"><span role="status"><strong>{whole(total)}</strong> of {whole(rules.length)} rules in {whole(data.groups.length)} groups</span>{group !== null && <Chip text={`group ${group}`} onRemove={() => change({ group: null })} />}{files.map((file) => <Chip key={file} text={file} onRemove={() => change({ file: files.filter((one) => one !== file) })} />)}</div>
      {data.groups.length === 0 && <Empty>No rules. They come from the files of rule_files.</Empty>}
      {data.groups.length > 0 && groups.length === 0 && <Empty>No rule fits these filters.</Empty>}
      {drawn.map(({ group, rules: of }) => (
        <section key={`${group.file} ${group.name}`} aria-label={`group ${visible(group.name, 100)}`}>
          <h2>
            <a href={groupAddress(group)}>{visible(group.name, 300)}</a>
            <small>{visible(group.file, 300)} · every {duration(group.interval * 1000)} · took {span(group.evaluationTime * 1000)} · last <Age ms={apiTime(group.lastEvaluation)} />{group.limit > 0 ? ` · limit ${group.limit}` : ""}</small>
          </h2>
          <div style={{ maxWidth: "420px", marginBottom: "6px" }}><Meter value={group.evaluationTime} max={group.interval} label="share of the interval that the evaluation takes" /></div>
          {group.name === params.get("group") && <Evaluations file={group.file} name={group.name} />}
          <Table head={["Rule", "Expression", "State", "Took", "Last"]} numbers={[3]} label={`rules of ${visible(group.name, 100)}`}>
            {of.map((rule, index) => (
              <tr key={index}>
                <td class="wrap"><strong>{visible(rule.name, 300)}</strong><br /><span class="faint">{rule.type}{(rule.duration ?? 0) > 0 ? `, for ${duration(rule.duration! * 1000)}` : ""}</span><br /><LabelSet labels={rule.labels ?? {}} /></td>
                <td class="wrap"><Expression query={rule.query} /><Reads query={rule.query} names={names} own={rule.name} />{rule.lastError && <div class="error">{visible(rule.lastError, 1000)}</div>}<Annotations annotations={rule.annotations} /></td>
                <td><State of={rule.health} />{rule.type === "alerting" && <><br /><State of={rule.state ?? "unknown"} /></>}</td>
                <td class="number">{span(rule.evaluationTime * 1000)}</td>
                <td><Age ms={apiTime(rule.lastEvaluation)} /></td>
              </tr>
            ))}
          </Table>
        </section>
      ))}
      {total > shown && <button type="button" onClick={() => setShown(shown + RULES_STEP)}>more rules</button>}
    </>
  );
}

function groupAddress(group: RuleGroup): string {
  return `rules?file=${encodeURIComponent(group.file)}&group=${encodeURIComponent(group.name)}`;
}

/** How long the newest evaluations of a group took. */
function Evaluations({ file, name }: { file: string; name: string }) {
  const { data, error } = usePoll(`evaluations ${file} ${name}`, 15_000, (signal) =>
    get<{ interval: number; missed: number; evaluations: [number, number][] }>("ringscrape/rules/evaluations", { file, name }, { signal }),
  );
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  if (data.evaluations.length === 0) return <p class="faint">Not evaluated yet.</p>;
  const took = data.evaluations.map(([, seconds]) => seconds);
  const most = Math.max(...took);
  const lines = [{ label: "took", values: took }];
  if (most > data.interval / 4) lines.push({ label: "interval", values: took.map(() => data.interval) });
  return (
    <div class="card">
      <h3>Evaluations <small>the last {data.evaluations.length}, longest {span(most * 1000)}, {whole(data.missed)} missed since the start</small></h3>
      <Plot bare times={data.evaluations.map(([at]) => at / 1000)} series={lines} label="time that evaluations of the group took" height={130} unit={(value) => span(value * 1000)} zero />
    </div>
  );
}

/** Which recording rules an expression reads. */
function Reads({ query, names, own }: { query: string; names: Set<string>; own: string }) {
  const read = [...new Set(query.match(/[a-zA-Z_:][a-zA-Z0-9_:]*/g) ?? [])].filter((name) => name !== own && names.has(name)).slice(0, 10);
  return read.length === 0 ? null : <div class="faint">reads the rules {read.map((name) => <a href={`rules?search=${encodeURIComponent(name)}`} key={name}>{visible(name, 100)} </a>)}</div>;
}
