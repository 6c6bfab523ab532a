// The address of the query page: Prometheus' parameters, both ways, those of its old UI included.
import { duration, parseDuration, parseUtc, timeUtc } from "./format";

export type Tab = "table" | "graph" | "explain";
export type Display = "lines" | "stacked" | "heatmap";
export type Resolution = { kind: "auto"; density: "low" | "medium" | "high" } | { kind: "fixed" | "custom"; ms: number };

export interface PanelState {
  expr: string;
  tab: Tab;
  showTree: boolean;
  /** Length of the graph's range in milliseconds. */
  range: number;
  /** End of the range in Unix milliseconds; null: now. */
  end: number | null;
  /** Time of the table; null: now. */
  moment: number | null;
  resolution: Resolution;
  display: Display;
  /** Whether the Y axis begins at zero, and whether it is logarithmic. */
  zero: boolean;
  log: boolean;
  exemplars: boolean;
}

/** Most panels of one address: a page with more would ask the server for too much at once. */
export const PANELS_MAX = 20;

export function newPanel(): PanelState {
  return {
    expr: "",
    tab: "graph",
    showTree: false,
    range: 3_600_000,
    end: null,
    moment: null,
    resolution: { kind: "auto", density: "medium" },
    display: "lines",
    zero: false,
    log: false,
    exemplars: false,
  };
}

function tabOf(value: string | undefined): Tab {
  // 0 and 1 are of the old UI and of the links in alerts. Without a tab, Prometheus shows the table.
  if (value === "0" || value === "graph") return "graph";
  return value === "explain" ? "explain" : "table";
}

function resolutionOf(of: Map<string, string>): Resolution {
  const kind = of.get("res_type");
  // Seconds; older addresses of ours have a duration.
  const ms = parseDuration(of.get("res_step") ?? of.get("step_input") ?? "");
  if ((kind === "fixed" || kind === "custom" || of.has("step_input")) && ms !== null && ms > 0) {
    return { kind: kind === "fixed" ? "fixed" : "custom", ms };
  }
  const density = of.get("res_density");
  return { kind: "auto", density: density === "low" || density === "high" ? density : "medium" };
}

/** The panels that an address names, in their order; none for an address without. */
export function decode(search: string): PanelState[] {
  const byPanel = new Map<number, Map<string, string>>();
  for (const [name, value] of new URLSearchParams(search)) {
    const found = /^g(\d{1,4})\.([a-z_]+)$/.exec(name);
    if (!found) continue;
    const index = Number(found[1]);
    if (!byPanel.has(index)) byPanel.set(index, new Map());
    byPanel.get(index)!.set(found[2]!, value);
  }
  const numbers = [...byPanel.keys()].sort((a, b) => a - b).slice(0, PANELS_MAX);
  return numbers.map((index) => {
    const of = byPanel.get(index)!;
    const display = of.get("display_mode");
    const range = parseDuration(of.get("range_input") ?? "");
    return {
      expr: of.get("expr") ?? "",
      tab: tabOf(of.get("tab")),
      showTree: of.get("show_tree") === "1",
      range: range !== null && range > 0 ? range : 3_600_000,
      end: parseUtc(of.get("end_input") ?? ""),
      moment: parseUtc(of.get("moment_input") ?? ""),
      resolution: resolutionOf(of),
      display:
        display === "stacked" || display === "heatmap"
          ? display
          : display === undefined && of.get("stacked") === "1"
            ? "stacked"
            : "lines",
      zero: of.get("y_axis_min") === "0",
      log: of.get("y_log") === "1",
      exemplars: of.get("show_exemplars") === "1",
    };
  });
}

/** The address of these panels, without the page's name. */
export function encode(panels: PanelState[]): string {
  const params = new URLSearchParams();
  panels.forEach((panel, index) => {
    const put = (name: string, value: string) => params.set(`g${index}.${name}`, value);
    put("expr", panel.expr);
    put("show_tree", panel.showTree ? "1" : "0");
    put("tab", panel.tab);
    if (panel.end !== null) put("end_input", timeUtc(panel.end));
    if (panel.moment !== null) put("moment_input", timeUtc(panel.moment));
    put("range_input", duration(panel.range));
    put("res_type", panel.resolution.kind);
    if (panel.resolution.kind === "auto") put("res_density", panel.resolution.density);
    else put("res_step", String(panel.resolution.ms / 1000));
    put("display_mode", panel.display);
    put("show_exemplars", panel.exemplars ? "1" : "0");
    if (panel.zero) put("y_axis_min", "0");
    if (panel.log) put("y_log", "1");
  });
  return params.toString();
}

/** Points that a graph has at each density. */
const POINTS = { low: 100, medium: 250, high: 750 };

/** The step of a range in milliseconds: never more points than the server answers. */
export function stepOf(panel: PanelState): number {
  const least = Math.ceil(panel.range / 10_999);
  if (panel.resolution.kind !== "auto") return Math.max(panel.resolution.ms, least);
  const step = panel.range / POINTS[panel.resolution.density];
  return Math.max(step >= 1_000 ? Math.floor(step / 1_000) * 1_000 : 1_000, least);
}
