// The page /query: panels of an expression with its table, graph or explanation. What a panel shows is in the address.
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Copy, Empty, Problem, Segments, Waiting } from "../components/basic";
import { Heatmap } from "../components/heatmap";
import { Plot, type Marker } from "../components/plot";
import type { EditorHandle } from "../editor/editor";
import type { ExprNode } from "../editor/tree";
import { decode, encode, newPanel, stepOf, PANELS_MAX, type Display, type PanelState, type Tab } from "../lib/address";
import { ApiError, ask, errorText, get, type Answer } from "../lib/api";
import { connection } from "../lib/connection";
import { loadEditor } from "../lib/editor";
import { duration, parseDuration, parseTime, span, short, time, whole, zone } from "../lib/format";
import { useSettings } from "../lib/hooks";
import { csv, grid, heatmaps, isHistogram, legendNames, number, onGrid, SERIES_MAX, type Histogram, type Result, type Series } from "../lib/results";
import { loadList, store } from "../lib/settings";
import { pairs, quote, selector, visible } from "../lib/text";
import { seriesStyle } from "../lib/theme";
import { Explorer } from "./explorer";

/** Expressions that are kept in the browser. */
const HISTORY_MAX = 50;
/** Rows of a table at first; more come on demand. */
const ROWS_STEP = 500;

function remember(expr: string): void {
  if (expr.trim() === "") return;
  const list = [expr, ...loadList("history").filter((one) => one !== expr)].slice(0, HISTORY_MAX);
  store("history", JSON.stringify(list));
}

/** What was asked, and what came. */
interface Outcome {
  tab: Tab;
  answer: Answer<Result> | null;
  error: unknown;
  start: number;
  end: number;
  step: number;
  markers: Marker[];
}

interface PanelEntry {
  id: number;
  state: PanelState;
  /** Grows with each demand to run. */
  runs: number;
}

let nextId = 1;
const entry = (state: PanelState, runs = 0): PanelEntry => ({ id: (nextId += 1), state, runs });

function fromAddress(): PanelEntry[] {
  const panels = decode(location.search);
  return panels.length > 0 ? panels.map((state) => entry(state, state.expr === "" ? 0 : 1)) : [entry(newPanel())];
}

export function QueryPage() {
  const [panels, setPanels] = useState<PanelEntry[]>(fromAddress);
  const [tied, setTied] = useState(false);
  const [features, setFeatures] = useState<any>(null);
  const latest = useRef(panels);
  latest.current = panels;

  useEffect(() => {
    const back = () => setPanels(fromAddress());
    addEventListener("popstate", back);
    get<any>("features").then(setFeatures, () => {});
    return () => removeEventListener("popstate", back);
  }, []);

  /** Writes the address; what a reader asked for becomes a step of the history. */
  const write = (list: PanelEntry[], push: boolean) => {
    const address = `?${encode(list.map((one) => one.state))}`;
    if (address === location.search) return;
    history[push && location.search !== "" ? "pushState" : "replaceState"](null, "", location.pathname + address);
  };

  const update = useCallback((id: number, part: Partial<PanelState>, run: boolean) => {
    const ranges = tiedRef.current && ("range" in part || "end" in part);
    const next = latest.current.map((one) => {
      if (one.id === id) return { ...one, state: { ...one.state, ...part }, runs: one.runs + (run ? 1 : 0) };
      if (!ranges) return one;
      const { range = one.state.range, end = one.state.end } = part;
      return { ...one, state: { ...one.state, range, end }, runs: one.runs + (run && one.runs > 0 ? 1 : 0) };
    });
    latest.current = next;
    setPanels(next);
    if (run) write(next, true);
  }, []);
  const tiedRef = useRef(tied);
  tiedRef.current = tied;

  const replace = (next: PanelEntry[]) => {
    latest.current = next;
    setPanels(next);
    write(next, true);
  };
  const act = (id: number, action: "remove" | "duplicate" | "up" | "down") => {
    const at = panels.findIndex((one) => one.id === id);
    const next = [...panels];
    if (action === "remove") next.splice(at, 1);
    if (action === "duplicate") next.splice(at + 1, 0, entry({ ...panels[at]!.state }, 1));
    const to = action === "up" ? at - 1 : at + 1;
    if ((action === "up" || action === "down") && to >= 0 && to < next.length) [next[at], next[to]] = [next[to]!, next[at]!];
    replace(next.length > 0 ? next : [entry(newPanel())]);
  };
  const runAll = () => {
    const next = latest.current.map((one) => ({ ...one, runs: one.runs + 1 }));
    replace(next);
  };

  return (
    <>
      {panels.map((one, index) => (
        <Panel
          key={one.id}
          index={index}
          count={panels.length}
          state={one.state}
          runs={one.runs}
          features={features}
          onChange={(part, run) => update(one.id, part, run)}
          onAct={(action) => act(one.id, action)}
        />
      ))}
      <div class="bar">
        <button type="button" disabled={panels.length >= PANELS_MAX} onClick={() => replace([...panels, entry({ ...newPanel(), range: panels[panels.length - 1]!.state.range, end: panels[panels.length - 1]!.state.end })])}>Add panel</button>
        {panels.length > 1 && <button type="button" onClick={runAll}>Run all</button>}
        {panels.length > 1 && (
          <label class="inline"><input type="checkbox" checked={tied} onChange={(event) => setTied(event.currentTarget.checked)} />one time range for all panels</label>
        )}
        <Copy text={() => location.href}>Copy link</Copy>
        <Copy
          text={() => {
            const now = Date.now();
            const fixed = panels.map((one) => ({ ...one.state, end: one.state.end ?? now, moment: one.state.moment ?? now }));
            return `${location.origin}${location.pathname}?${encode(fixed)}`;
          }}
        >
          Copy link with the time fixed
        </Copy>
      </div>
    </>
  );
}

interface PanelProps {
  index: number;
  count: number;
  state: PanelState;
  runs: number;
  features: any;
  onChange: (part: Partial<PanelState>, run: boolean) => void;
  onAct: (action: "remove" | "duplicate" | "up" | "down") => void;
}

function Panel({ index, count, state, runs, features, onChange, onAct }: PanelProps) {
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const [running, setRunning] = useState(false);
  const [note, setNote] = useState<string | null>(null);
  const [explorer, setExplorer] = useState(false);
  const [folded, setFolded] = useState(false);
  const editor = useRef<EditorHandle | null>(null);
  const abort = useRef<AbortController | null>(null);
  const current = useRef(state);
  current.current = state;

  const cancel = () => {
    abort.current?.abort();
    abort.current = null;
    setRunning(false);
  };

  const run = async () => {
    cancel();
    const panel = current.current;
    if (panel.expr.trim() === "") return setOutcome(null);
    if (panel.tab === "explain") return setOutcome(null);
    const mine = new AbortController();
    abort.current = mine;
    setRunning(true);
    setNote(null);
    remember(panel.expr);
    const step = stepOf(panel);
    const end = panel.end ?? Date.now();

    const last = end;
    const start = last - panel.range;
    const options = { post: true, signal: mine.signal };
    const done = (part: Partial<Outcome>) => {
      if (mine.signal.aborted) return;
      setRunning(false);
      setOutcome({ tab: panel.tab, answer: null, error: null, start, end: last, step, markers: [], ...part });
    };
    try {
      const params = { query: panel.expr, stats: "1" };
      const answer =
        panel.tab === "table"
          ? await ask<Result>("query", { ...params, time: panel.moment === null ? undefined : panel.moment / 1000 }, options)
          : await ask<Result>("query_range", { ...params, start: start / 1000, end: last / 1000, step: step / 1000, limit: SERIES_MAX + 1 }, options);
      connection.good();
      const markers = panel.exemplars && panel.tab === "graph" ? await exemplars(panel.expr, start, last, mine.signal) : [];
      done({ answer, markers });
    } catch (error) {
      connection.bad(error);
      done({ error });
    }
  };
  useEffect(() => {
    if (runs > 0) void run();
  }, [runs]);
  useEffect(() => cancel, []);

  const format = async () => {
    try {
      const text = await get<string>("format_query", { query: state.expr }, { post: true });
      editor.current?.set(text);
      onChange({ expr: text }, false);
      setNote(null);
    } catch (error) {
      setNote(errorText(error));
    }
  };

  /** Another expression, that was not typed. */
  const draw = (expr: string) => {
    editor.current?.set(expr);
    onChange({ expr }, true);
  };
  const name = `panel ${index + 1}`;
  return (
    <section class="panel" aria-label={name}>
      <div class="editor-row">
        <button type="button" class="plain" aria-expanded={!folded} aria-label={`fold ${name}`} onClick={() => setFolded(!folded)}>{folded ? "▸" : "▾"}</button>
        <EditorField
          text={state.expr}
          label={`expression of ${name}`}
          handle={editor}
          onChange={(expr) => onChange({ expr }, false)}
          onRun={() => onChange({}, true)}
        />
        {running ? (
          <button type="button" onClick={cancel}>Cancel</button>
        ) : (
          <button type="button" class="primary" onClick={() => onChange({}, true)}>Run</button>
        )}
        <button type="button" onClick={() => void format()}>Format</button>
        <button type="button" aria-pressed={explorer} onClick={() => setExplorer(!explorer)}>Explore</button>
        <button type="button" aria-pressed={state.showTree} onClick={() => onChange({ showTree: !state.showTree }, true)}>Tree</button>
        {count > 1 && <button type="button" class="plain" aria-label={`move ${name} up`} onClick={() => onAct("up")}>↑</button>}
        {count > 1 && <button type="button" class="plain" aria-label={`move ${name} down`} onClick={() => onAct("down")}>↓</button>}
        <button type="button" class="plain" aria-label={`Duplicate ${name}`} onClick={() => onAct("duplicate")}>Duplicate</button>
        <button type="button" class="plain" aria-label={`remove ${name}`} onClick={() => onAct("remove")}>✕</button>
      </div>
      {note && <div class="note" role="alert">{visible(note, 2000)}</div>}
      {explorer && <Explorer onInsert={(text) => editor.current?.insert(text)} />}
      {!folded && (
        <>
          {state.showTree && <TreeView expr={state.expr} runs={runs} moment={state.moment} onPick={(node) => editor.current?.select(node.from, node.to)} onDraw={draw} />}
          <div class="bar">
            <span class="segments" role="tablist" aria-label={`view of ${name}`}>
              {([["table", "Table"], ["graph", "Graph"], ["explain", "Explain"]] as const).map(([tab, text]) => (
                <button type="button" role="tab" key={tab} aria-selected={state.tab === tab} onClick={() => onChange({ tab }, true)}>{text}</button>
              ))}
            </span>
            {state.tab === "graph" && <GraphControls state={state} onChange={onChange} exemplars={features?.tsdb?.exemplar_storage === true} name={name} />}
            {state.tab === "table" && <TimeField label={`time of the table of ${name}`} value={state.moment} onChange={(moment) => onChange({ moment }, true)} by={300_000} />}
            {outcome?.answer && <Statistics outcome={outcome} />}
          </div>
          {outcome?.answer && <Annotations answer={outcome.answer} onPick={(from, to) => editor.current?.select(from, to)} expr={state.expr} />}
          <div role="tabpanel" aria-label={`${state.tab} of ${name}`}>
            {outcome?.error !== null && outcome?.error !== undefined && <QueryError error={outcome.error} onRetry={() => onChange({}, true)} expr={state.expr} onPick={(from, to) => editor.current?.select(from, to)} />}
            {running && !outcome && <Waiting />}
            {state.tab === "explain" && <ExplainView expr={state.expr} onPick={(node) => editor.current?.select(node.from, node.to)} />}
            {outcome?.answer && outcome.tab === "table" && state.tab === "table" && (
              <TableView result={outcome.answer.data} onMatcher={(label, value) => editor.current?.insert(`${label}=${quote(value)}`)} />
            )}
            {outcome?.answer && outcome.tab === "graph" && state.tab === "graph" && <GraphView outcome={outcome} state={state} onChange={onChange} onDraw={draw} />}
            {!outcome && !running && state.tab !== "explain" && <Empty>Type an expression and press Enter. Ctrl+Space completes, Alt+↑ brings back older ones, Shift+Enter begins a line.</Empty>}
          </div>
        </>
      )}
    </section>
  );
}

/** The editor; until it is loaded, and if it cannot be, a plain field. */
function EditorField({ text, label, handle, onChange, onRun }: {
  text: string;
  label: string;
  handle: { current: EditorHandle | null };
  onChange: (text: string) => void;
  onRun: () => void;
}) {
  const host = useRef<HTMLDivElement>(null);
  const [plain, setPlain] = useState(true);
  const latest = useRef({ text, onChange, onRun });
  latest.current = { text, onChange, onRun };
  useEffect(() => {
    let ended = false;
    let at = -1;
    loadEditor().then(
      (module) => {
        if (ended || !host.current) return;
        const hadFocus = document.activeElement?.closest(".editor") === host.current.parentElement;
        handle.current = module.createEditor(host.current, {
          text: latest.current.text,
          label,
          onChange: (changed) => latest.current.onChange(changed),
          onRun: () => {
            at = -1;
            latest.current.onRun();
          },
          onHistory: (direction) => {
            const list = loadList("history");
            const next = at - direction;
            if (next < 0 || next >= list.length) return null;
            at = next;
            return list[at]!;
          },
        });
        setPlain(false);
        if (hadFocus || latest.current.text === "") handle.current.focus();
      },
      () => {},
    );
    return () => {
      ended = true;
      handle.current?.destroy();
      handle.current = null;
    };
  }, []);
  // The editor owns its text: what is set from elsewhere is set through its handle, never by drawing again, which would
  // undo what was typed meanwhile.
  return (
    <div class="editor">
      <div ref={host} hidden={plain} />
      {plain && (
        <textarea
          rows={1}
          aria-label={label}
          value={text}
          spellcheck={false}
          onInput={(event) => onChange(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey) return;
            event.preventDefault();
            onRun();
          }}
        />
      )}
    </div>
  );
}

/** A time that may be now, with steps back and forth. */
function TimeField({ label, value, onChange, by }: { label: string; value: number | null; onChange: (value: number | null) => void; by: number }) {
  useSettings();
  const shown = value === null ? "" : time(value);
  const [text, setText] = useState(shown);
  const [wrong, setWrong] = useState(false);
  useEffect(() => {
    setText(shown);
    setWrong(false);
  }, [shown]);
  const commit = () => {
    if (text === shown) return;
    if (text.trim() === "") return onChange(null);
    const parsed = parseTime(text);
    setWrong(parsed === null);
    if (parsed !== null) onChange(parsed);
  };
  return (
    <span class="bar" style={{ margin: 0 }}>
      <span class="segments">
        <button type="button" aria-label={`${label}: earlier`} onClick={() => onChange((value ?? Date.now()) - by)}>‹</button>
        <input
          aria-label={`${label}, ${zone()}`}
          aria-invalid={wrong}
          size={19}
          placeholder="now"
          title={wrong ? "want 2026-11-30 08:26:14" : zone()}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onBlur={commit}
          onKeyDown={(event) => event.key === "Enter" && commit()}
        />
        <button type="button" aria-label={`${label}: later`} onClick={() => onChange((value ?? Date.now()) + by)}>›</button>
      </span>
      {value !== null && <button type="button" onClick={() => onChange(null)}>now</button>}
      {wrong && <span class="error">want 2026-11-30 08:26:14</span>}
    </span>
  );
}

const RANGES = [60_000, 300_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000, 1_209_600_000, 2_419_200_000, 4_838_400_000, 14_515_200_000, 31_536_000_000];

function GraphControls({ state, onChange, exemplars, name }: { state: PanelState; onChange: PanelProps["onChange"]; exemplars: boolean; name: string }) {
  const [range, setRange] = useState(duration(state.range));
  const [step, setStep] = useState(state.resolution.kind === "auto" ? "" : duration(state.resolution.ms));
  useEffect(() => setRange(duration(state.range)), [state.range]);
  const commitRange = () => {
    const ms = parseDuration(range);
    if (ms !== null && ms >= 1_000 && ms !== state.range) onChange({ range: ms }, true);
    else setRange(duration(state.range));
  };
  const commitStep = () => {
    const ms = parseDuration(step);
    const next = ms !== null && ms > 0 ? ({ kind: "custom", ms } as const) : ({ kind: "auto", density: "medium" } as const);
    if (JSON.stringify(next) !== JSON.stringify(state.resolution)) onChange({ resolution: next }, true);
  };
  const shift = (to: 1 | -1) => {
    const at = to === 1 ? RANGES.find((one) => one > state.range) : RANGES.findLast((one) => one < state.range);
    if (at !== undefined) onChange({ range: at }, true);
  };
  return (
    <>
      <span class="segments">
        <button type="button" aria-label={`shorter range of ${name}`} onClick={() => shift(-1)}>−</button>
        <input aria-label={`range of ${name}`} size={6} value={range} onInput={(event) => setRange(event.currentTarget.value)} onBlur={commitRange} onKeyDown={(event) => event.key === "Enter" && commitRange()} />
        <button type="button" aria-label={`longer range of ${name}`} onClick={() => shift(1)}>+</button>
      </span>
      <TimeField label={`end of the range of ${name}`} value={state.end} onChange={(end) => onChange({ end }, true)} by={state.range / 2} />
      <label class="inline">step <input aria-label={`step of ${name}`} size={5} placeholder={duration(stepOf(state))} value={step} onInput={(event) => setStep(event.currentTarget.value)} onBlur={commitStep} onKeyDown={(event) => event.key === "Enter" && commitStep()} /></label>
      <Segments
        label={`display of ${name}`}
        of={[["lines", "Lines"], ["stacked", "Stacked"], ["heatmap", "Heat map"]] as const}
        value={state.display}
        onChange={(display: Display) => onChange({ display }, true)}
      />
      <label class="inline"><input type="checkbox" checked={state.zero} onChange={(event) => onChange({ zero: event.currentTarget.checked }, true)} />from 0</label>
      <label class="inline"><input type="checkbox" checked={state.log} onChange={(event) => onChange({ log: event.currentTarget.checked }, true)} />log</label>
      {exemplars && <label class="inline"><input type="checkbox" checked={state.exemplars} onChange={(event) => onChange({ exemplars: event.currentTarget.checked }, true)} />exemplars</label>}
    </>
  );
}

async function exemplars(query: string, start: number, end: number, signal: AbortSignal): Promise<Marker[]> {
  try {
    const found = await get<{ seriesLabels: Record<string, string>; exemplars: { labels: Record<string, string>; value: string; timestamp: number }[] }[]>("query_exemplars", { query, start: start / 1000, end: end / 1000 }, { post: true, signal });
    const all = found.flatMap((one) => one.exemplars.map((exemplar) => ({ at: exemplar.timestamp, value: number(exemplar.value), text: `${selector(exemplar.labels)} ${exemplar.value}` })));
    return all.slice(0, 1_000);
  } catch {
    return [];
  }
}

function Statistics({ outcome }: { outcome: Outcome }) {
  const { answer, step, tab } = outcome;
  const result = answer!.data;
  const count = Array.isArray(result.result) && (result.resultType === "vector" || result.resultType === "matrix") ? result.result.length : 1;
  const samples = result.stats?.samples?.totalQueryableSamples;
  const parts = [
    `${whole(count)} series`,
    samples === undefined ? "" : `${short(samples)} samples`,
    tab === "graph" ? `step ${duration(step)}` : "",
    span(answer!.ms),
    `${short(answer!.bytes)} B`,
  ].filter((part) => part !== "");
  return <span class="faint" role="status">{parts.join(" · ")}</span>;
}

/** `1:13` in an annotation or an error as an offset of the expression. */
function place(text: string, expr: string): number | null {
  const found = /\((\d+):(\d+)\)\s*$/.exec(text) ?? /(?:^|\D)(\d+):(\d+): parse error/.exec(text);
  if (!found) return null;
  const lines = expr.split("\n");
  const row = Number(found[1]) - 1;
  if (row >= lines.length) return null;
  return lines.slice(0, row).reduce((sum, line) => sum + line.length + 1, 0) + Number(found[2]) - 1;
}

function Annotations({ answer, onPick, expr }: { answer: Answer<Result>; onPick: (from: number, to: number) => void; expr: string }) {
  const all = [...answer.warnings.map((text) => ["warn", text] as const), ...answer.infos.map((text) => ["info", text] as const)];
  return (
    <>
      {all.slice(0, 20).map(([kind, text]) => {
        const at = place(text, expr);
        return (
          <div class={`note ${kind}`} role={kind === "warn" ? "alert" : "status"} key={text}>
            <strong>{kind === "warn" ? "Warning: " : "Info: "}</strong>{visible(text, 1000)}{" "}
            {at !== null && <button type="button" class="plain" onClick={() => onPick(at, expr.length)}>show the place</button>}
          </div>
        );
      })}
      {all.length > 20 && <p class="faint">and {all.length - 20} more</p>}
    </>
  );
}

function QueryError({ error, onRetry, expr, onPick }: { error: unknown; onRetry: () => void; expr: string; onPick: (from: number, to: number) => void }) {
  const at = place(errorText(error), expr);
  const passing = error instanceof ApiError && [0, 429, 503].includes(error.status);
  return (
    <Problem error={error}>
      {at !== null && <button type="button" onClick={() => onPick(at, expr.length)}>show the place</button>}
      {passing && <button type="button" onClick={onRetry}>try again</button>}
    </Problem>
  );
}

function histogramText(histogram: Histogram): string {
  const buckets = (histogram.buckets ?? []).map(([rule, low, high, count]) => `${rule === 1 || rule === 3 ? "[" : "("}${low}, ${high}${rule === 0 || rule === 3 ? "]" : ")"}: ${count}`);
  return `count ${histogram.count}, sum ${histogram.sum}${buckets.length > 0 ? `\n${buckets.slice(0, 200).join("\n")}` : ""}`;
}

function TableView({ result, onMatcher }: { result: Result; onMatcher: (label: string, value: string) => void }) {
  const [shown, setShown] = useState(ROWS_STEP);
  const [order, setOrder] = useState<"" | "up" | "down">("");
  const rows: Series[] = useMemo(() => {
    if (result.resultType === "scalar" || result.resultType === "string") return [{ metric: {}, value: result.result }];
    const list = [...(result.result as Series[])];
    const value = (one: Series) => number(one.value?.[1] ?? one.histogram?.[1].count ?? "NaN");
    if (order !== "") list.sort((a, b) => (order === "up" ? value(a) - value(b) : value(b) - value(a)) || 0);
    return list;
  }, [result, order]);
  if (rows.length === 0) return <Empty>The answer has no series: the selector finds nothing at this time, or its newest sample is too old.</Empty>;
  const text = (one: Series): string => {
    if (one.value) return one.value[1];
    if (one.histogram) return histogramText(one.histogram[1]);
    if (one.values || one.histograms) {
      const floats = (one.values ?? []).map(([at, value]) => `${value} @${at}`);
      const others = (one.histograms ?? []).map(([at, value]) => `${histogramText(value)} @${at}`);
      return [...floats, ...others].slice(0, 500).join("\n");
    }
    return "";
  };
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label="values">
        <table class="values">
          <thead>
            <tr>
              <th scope="col">Series</th>
              <th scope="col" class="number" aria-sort={order === "up" ? "ascending" : order === "down" ? "descending" : "none"}>
                <button type="button" onClick={() => setOrder(order === "" ? "down" : order === "down" ? "up" : "")}>Value {order === "up" ? "↑" : order === "down" ? "↓" : "↕"}</button>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, shown).map((one, index) => (
              <tr key={index}>
                <td>
                  {result.resultType === "scalar" || result.resultType === "string" ? result.resultType : (
                    <SeriesName labels={one.metric} onMatcher={onMatcher} />
                  )}
                </td>
                <td class="number" style={{ whiteSpace: "pre-wrap" }}>{visible(text(one), 8000)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="bar" style={{ marginTop: "8px" }}>
        {rows.length > shown && <button type="button" onClick={() => setShown(shown + ROWS_STEP)}>{shown} of {whole(rows.length)} shown; more</button>}
        <Copy text={() => csv(rows)}>Copy as CSV</Copy>
      </div>
    </>
  );
}

function SeriesName({ labels, onMatcher }: { labels: Record<string, string>; onMatcher: (label: string, value: string) => void }) {
  const all = pairs(labels);
  const name = all.find(([key]) => key === "__name__");
  const rest = all.filter(([key]) => key !== "__name__");
  return (
    <>
      {name && <strong>{visible(name[1], 300)}</strong>}
      {rest.length > 0 || !name ? "{" : ""}
      {rest.map(([key, value], index) => (
        <span key={key}>
          {index > 0 ? ", " : ""}
          <span class="k">{visible(key, 300)}</span>=
          <span class="s" title="double click adds this matcher at the cursor" onDblClick={() => onMatcher(key, value)}>"{visible(value, 1000)}"</span>
        </span>
      ))}
      {rest.length > 0 || !name ? "}" : ""}
    </>
  );
}

function unitOf(expr: string): ((value: number) => string) | undefined {
  if (/_bytes(?!\w)/.test(expr) && !/rate|count/.test(expr)) return (value) => `${short(value)}B`;
  if (/_ratio(?!\w)/.test(expr)) return (value) => `${Number((value * 100).toPrecision(4))} %`;
  return undefined;
}

function GraphView({ outcome, state, onChange, onDraw }: { outcome: Outcome; state: PanelState; onChange: PanelProps["onChange"]; onDraw: (expr: string) => void }) {
  const [hidden, setHidden] = useState<Set<string>>(new Set());
  const [all, setAll] = useState(false);
  const result = outcome.answer!.data;
  const total = Array.isArray(result.result) ? result.result.length : 0;
  const times = useMemo(() => grid(outcome.start, outcome.end, outcome.step), [outcome]);
  const series: Series[] = useMemo(() => (Array.isArray(result.result) ? (result.result as Series[]).slice(0, SERIES_MAX) : []), [outcome]);
  const names = useMemo(() => legendNames(series), [series]);
  const values = useMemo(
    () => series.map((one) => onGrid(one.values ?? (one.histograms ?? []).map(([at, histogram]): [number, string] => [at, histogram.count]), times, outcome.step)),
    [series],
  );
  const heat = useMemo(() => (state.display === "heatmap" ? heatmaps(series, times, outcome.step) : []), [series, state.display]);
  const lines = useMemo(
    () => names.map((label, index) => ({ label, values: values[index]!, hidden: hidden.has(label), style: index })),
    [names, values, hidden],
  );
  if (series.length === 0) return <Empty>The answer has no series in this range.</Empty>;
  if (state.display === "heatmap") {
    if (heat.length === 0) return <Empty>These series are no buckets: a heat map needs a label le or native histograms.</Empty>;
    return <div class={heat.length > 1 ? "grid two" : ""}>{heat.map((one) => <Heatmap key={one.label} data={one} />)}</div>;
  }
  const toggle = (label: string, add: boolean) => {
    const next = new Set(hidden);
    if (add) {
      if (!next.delete(label)) next.add(label);
    } else {
      const alone = names.every((name) => name === label || hidden.has(name)) && !hidden.has(label);
      next.clear();
      if (!alone) for (const name of names) if (name !== label) next.add(name);
    }
    setHidden(next);
  };
  const listed = all ? series.length : Math.min(series.length, 50);
  const unit = unitOf(state.expr);
  const figure = (value: number | null) => (value === null ? "–" : (unit ?? short)(value));
  return (
    <>
      {total > SERIES_MAX && (
        <div class="note warn">
          More than {SERIES_MAX} series; {SERIES_MAX} are drawn.{" "}
          <button type="button" onClick={() => onDraw(`topk(20, ${state.expr})`)}>draw the 20 largest</button>
        </div>
      )}
      {isHistogram(series) && state.display === "lines" && (
        <p class="faint">These are buckets. <button type="button" onClick={() => onChange({ display: "heatmap" }, true)}>show a heat map</button></p>
      )}
      <Plot
        times={times}
        series={lines}
        label={`graph of ${visible(state.expr, 200)}`}
        stacked={state.display === "stacked"}
        zero={state.zero}
        log={state.log}
        unit={unit}
        markers={outcome.markers}
        onRange={(from, to) => onChange({ range: Math.max(1_000, to - from), end: to >= Date.now() - 1_000 && to - from >= state.range ? null : to }, true)}
      />
      <p class="faint">Drag to zoom, Shift and drag to move; with the keys: +, −, Shift+←, Shift+→. {time(outcome.start)} to {time(outcome.end)} {zone()}. A click in the legend shows one series alone, Ctrl and click hides or adds one.</p>
      <div class="legend">
        <table>
          <thead><tr><th scope="col">Series</th><th scope="col" class="number">last</th><th scope="col" class="number">min</th><th scope="col" class="number">avg</th><th scope="col" class="number">max</th></tr></thead>
          <tbody>
            {names.slice(0, listed).map((label, index) => {
              const figures = values[index]!.filter((value): value is number => value !== null);
              const last = figures.length > 0 ? figures[figures.length - 1]! : null;
              const { min, max, sum } = figures.reduce((at, value) => ({ min: Math.min(at.min, value), max: Math.max(at.max, value), sum: at.sum + value }), { min: Infinity, max: -Infinity, sum: 0 });
              return (
                <tr key={label} class={hidden.has(label) ? "off" : ""}>
                  <td class="name">
                    <button type="button" aria-pressed={!hidden.has(label)} class="legend-name" onClick={(event) => toggle(label, event.ctrlKey || event.metaKey)}>
                      <span class="swatch" style={{ background: seriesStyle(index).stroke }} />{visible(label, 600)}
                    </button>
                  </td>
                  <td class="number">{figure(last)}</td>
                  <td class="number">{figure(last === null ? null : min)}</td>
                  <td class="number">{figure(last === null ? null : sum / figures.length)}</td>
                  <td class="number">{figure(last === null ? null : max)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {listed < series.length && <button type="button" onClick={() => setAll(true)}>show all {series.length} in the legend</button>}
    </>
  );
}

/** Nodes that are counted at most, one question each. */
const COUNTED_MAX = 24;

/** The expression as a tree; each part with the number of its series and its labels. */
function TreeView({ expr, runs, moment, onPick, onDraw }: { expr: string; runs: number; moment: number | null; onPick: (node: ExprNode) => void; onDraw: (text: string) => void }) {
  const [tree, setTree] = useState<ExprNode | null>(null);
  const [counts, setCounts] = useState<Map<string, string>>(new Map());
  useEffect(() => {
    const abort = new AbortController();
    setCounts(new Map());
    void (async () => {
      const module = await loadEditor();
      const root = expr.trim() === "" ? null : module.exprTree(expr);
      if (abort.signal.aborted) return;
      setTree(root);
      if (!root) return;
      const nodes: ExprNode[] = [];
      const collect = (node: ExprNode) => {
        if (node.isVector && node.kind !== "ParenExpr") nodes.push(node);
        node.children.forEach(collect);
      };
      collect(root);
      for (const node of nodes.slice(0, COUNTED_MAX)) {
        const key = `${node.from}-${node.to}`;
        const put = (text: string) => !abort.signal.aborted && setCounts((before) => new Map(before).set(key, text));
        try {
          const begin = performance.now();
          const at = moment === null ? undefined : moment / 1000;
          const found = await get<Result>("query", { query: node.text, time: at, limit: 10_000 }, { post: true, signal: abort.signal });
          put(summary(found, performance.now() - begin));
        } catch (error) {
          if (abort.signal.aborted) return;
          put(errorText(error).slice(0, 200));
        }
      }
    })();
    return () => abort.abort();
  }, [runs, expr === "" ? "" : runs === 0 ? expr : ""]);
  if (!tree) return null;
  const show = (node: ExprNode) => {
    const key = `${node.from}-${node.to}`;
    return (
      <li key={key}>
        <button type="button" onClick={() => onPick(node)} title="shows it in the expression">{visible(node.text.replace(/\s+/g, " "), 160)}</button>{" "}
        <span class="faint">{counts.get(key) ?? ""}</span>{" "}
        {node.isVector && node !== tree && node.text.length > 1 && <button type="button" class="plain" onClick={() => onDraw(node.text)}>draw it</button>}
        {node.children.length > 0 && <ul>{node.children.map(show)}</ul>}
      </li>
    );
  };
  return <div class="tree" role="group" aria-label="tree of the expression"><ul>{show(tree)}</ul></div>;
}

function summary(found: Result, ms: number): string {
  if (found.resultType !== "vector") return `${found.resultType} · ${span(ms)}`;
  const series = found.result as Series[];
  const values = new Map<string, Set<string>>();
  for (const one of series) {
    for (const [name, value] of pairs(one.metric)) {
      if (!values.has(name)) values.set(name, new Set());
      values.get(name)!.add(value);
    }
  }
  const labels = [...values].sort((a, b) => b[1].size - a[1].size).slice(0, 6).map(([name, set]) => `${visible(name, 60)} ${set.size}`);
  return `${whole(series.length)}${series.length >= 10_000 ? " or more" : ""} series${labels.length > 0 ? ` [${labels.join(", ")}]` : ""} · ${span(ms)}`;
}

function ExplainView({ expr, onPick }: { expr: string; onPick: (node: ExprNode) => void }) {
  const [tree, setTree] = useState<ExprNode | null>(null);
  useEffect(() => {
    let ended = false;
    loadEditor().then((module) => !ended && setTree(expr.trim() === "" ? null : module.exprTree(expr)), () => {});
    return () => {
      ended = true;
    };
  }, [expr]);
  if (!tree) return <Empty>Type an expression to have it explained.</Empty>;
  const rows: { node: ExprNode; depth: number }[] = [];
  const collect = (node: ExprNode, depth: number) => {
    node.children.forEach((child) => collect(child, depth + 1));
    if (node.kind !== "ParenExpr") rows.push({ node, depth });
  };
  collect(tree, 0);
  return (
    <>
      <p class="faint">In the order in which the server computes it:</p>
      <ol class="explain">
        {rows.map(({ node }) => (
          <li key={`${node.from}-${node.to}`}>
            <button type="button" class="expr" onClick={() => onPick(node)}>{visible(node.text.replace(/\s+/g, " "), 300)}</button> {visible(node.says, 400)}
          </li>
        ))}
      </ol>
    </>
  );
}

