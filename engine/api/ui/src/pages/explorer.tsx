// Metrics by name with type and help, and the labels of one metric with their values.
import { useEffect, useState } from "preact/hooks";
import { Problem, SearchBox, Waiting } from "../components/basic";
import { get } from "../lib/api";
import { useDebounced } from "../lib/hooks";
import { quote, regexQuote, visible } from "../lib/text";

/** Names and values that are listed at once. */
const SHOWN_MAX = 200;

interface Metadata {
  type: string;
  help: string;
  unit: string;
}

const recently = () => {
  const end = Math.ceil(Date.now() / 1000);
  return { start: end - 3_600, end };
};

export function Explorer({ onInsert }: { onInsert: (text: string) => void }) {
  const [search, setSearch] = useState("");
  const wanted = useDebounced(search.trim(), 200);
  const [names, setNames] = useState<string[] | null>(null);
  const [metadata, setMetadata] = useState<Record<string, Metadata[]>>({});
  const [metric, setMetric] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);

  useEffect(() => {
    const abort = new AbortController();
    const match = wanted === "" ? [] : [`{__name__=~${quote(`(?i).*${regexQuote(wanted)}.*`)}}`];
    get<string[]>("label/__name__/values", { ...recently(), limit: SHOWN_MAX, "match[]": match }, { signal: abort.signal }).then(
      (found) => {
        setNames(found);
        setError(null);
      },
      (problem) => !abort.signal.aborted && setError(problem),
    );
    return () => abort.abort();
  }, [wanted]);
  useEffect(() => {
    get<Record<string, Metadata[]>>("metadata", { limit: 10_000, limit_per_metric: 1 }).then(setMetadata, () => {});
  }, []);

  const about = (name: string): Metadata | undefined => {
    const base = name.replace(/_(bucket|sum|count|total)$/, "");
    return (Object.hasOwn(metadata, name) ? metadata[name] : Object.hasOwn(metadata, base) ? metadata[base] : undefined)?.[0];
  };
  return (
    <div class="card" role="group" aria-label="metrics explorer" style={{ marginBottom: "8px" }}>
      {metric === null ? (
        <>
          <div class="bar"><SearchBox value={search} onInput={setSearch} placeholder="name of a metric" label="search metrics" /></div>
          <Problem error={error} />
          {names === null && !error && <Waiting />}
          {names && (
            <div class="scroll" style={{ maxHeight: "320px", overflow: "auto" }} tabIndex={0} role="region" aria-label="metrics">
              <table>
                <thead><tr><th scope="col">Metric</th><th scope="col">Type</th><th scope="col">Help</th></tr></thead>
                <tbody>
                  {names.map((name) => (
                    <tr key={name}>
                      <td><button type="button" class="plain mono" onClick={() => setMetric(name)}>{visible(name, 200)}</button></td>
                      <td>{visible(about(name)?.type ?? "", 40)}</td>
                      <td class="wrap">{visible(about(name)?.help ?? "", 400)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          )}
          {names?.length === 0 && <p class="faint">No metric of the last hour has this in its name.</p>}
          {(names?.length ?? 0) >= SHOWN_MAX && <p class="faint">The first {SHOWN_MAX}; type more of the name.</p>}
        </>
      ) : (
        <MetricLabels metric={metric} about={about(metric)} onBack={() => setMetric(null)} onInsert={onInsert} />
      )}
    </div>
  );
}

function MetricLabels({ metric, about, onBack, onInsert }: { metric: string; about: Metadata | undefined; onBack: () => void; onInsert: (text: string) => void }) {
  const [labels, setLabels] = useState<[string, string[]][] | null>(null);
  const [chosen, setChosen] = useState<[string, string][]>([]);
  const [error, setError] = useState<unknown>(null);
  const plain = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(metric);
  const matchers = [`__name__=${quote(metric)}`, ...chosen.map(([name, value]) => `${quote(name)}=${quote(value)}`)];
  const key = matchers.join(",");
  useEffect(() => {
    const abort = new AbortController();
    const options = { signal: abort.signal };
    const match = { ...recently(), limit: SHOWN_MAX, "match[]": [`{${key}}`] };
    void (async () => {
      try {
        const names = (await get<string[]>("labels", match, options)).filter((name) => name !== "__name__").slice(0, 40);
        const all: [string, string[]][] = [];
        for (const name of names) all.push([name, await get<string[]>(`label/${encodeURIComponent(name)}/values`, match, options)]);
        setLabels(all.sort((a, b) => a[1].length - b[1].length));
      } catch (problem) {
        if (!abort.signal.aborted) setError(problem);
      }
    })();
    return () => abort.abort();
  }, [key]);
  const inside = [...(plain ? [] : [quote(metric)]), ...chosen.map(([name, value]) => `${/^[a-zA-Z_]\w*$/.test(name) ? name : quote(name)}=${quote(value)}`)];
  const text = `${plain ? metric : ""}${inside.length > 0 ? `{${inside.join(", ")}}` : ""}`;
  return (
    <>
      <div class="bar">
        <button type="button" onClick={onBack}>‹ metrics</button>
        <strong class="mono">{visible(text, 400)}</strong>
        <span class="faint">{visible(about?.type ?? "", 40)}</span>
        <button type="button" class="primary" onClick={() => onInsert(text)}>Insert</button>
        {about?.type === "counter" && <button type="button" onClick={() => onInsert(`rate(${text}[5m])`)}>Insert its rate</button>}
        {chosen.length > 0 && <button type="button" onClick={() => setChosen([])}>remove the matchers</button>}
      </div>
      {about?.help && <p class="faint">{visible(about.help, 600)}</p>}
      <Problem error={error} />
      {labels === null && !error && <Waiting />}
      <div style={{ maxHeight: "320px", overflow: "auto" }} tabIndex={0} role="region" aria-label="labels">
        {labels?.map(([name, values]) => (
          <div key={name}>
            <strong class="k">{visible(name, 200)}</strong> <span class="faint">{values.length}{values.length >= SHOWN_MAX ? " or more" : ""} values</span>{" "}
            {values.slice(0, 20).map((value) => (
              <button type="button" class="label" key={value} onClick={() => setChosen([...chosen.filter(([other]) => other !== name), [name, value]])}>{visible(value, 200) || '""'}</button>
            ))}
          </div>
        ))}
      </div>
    </>
  );
}
