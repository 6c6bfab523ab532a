// A chart of lines over time. uPlot draws; axes, tooltip, keys and ranges are ours.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { useSettings } from "../lib/hooks";
import { clock, short, time, zone } from "../lib/format";
import { isDark } from "../lib/settings";
import { visible } from "../lib/text";
import { color, seriesStyle } from "../lib/theme";

export interface PlotSeries {
  label: string;
  /** null: no sample. */
  values: (number | null)[];
  hidden?: boolean;
  /** Index of its colour, if it is not its place in the list. */
  style?: number;
  dashed?: boolean;
}

export interface Marker {
  /** Unix seconds. */
  at: number;
  value: number;
  text: string;
}

interface Props {
  /** Unix seconds. */
  times: number[];
  series: PlotSeries[];
  label: string;
  height?: number;
  stacked?: boolean;
  zero?: boolean;
  log?: boolean;
  unit?: (value: number) => string;
  markers?: Marker[];
  /** Charts with the same key share a cursor. */
  sync?: string;
  onRange?: (fromMs: number, toMs: number) => void;
  onCursor?: (index: number | null) => void;
  bare?: boolean;
}

/** Sums from the first visible series on; a missing sample counts as nothing where others have one. */
function stack(series: PlotSeries[], count: number): (number | null)[][] {
  const sums = new Array<number>(count).fill(0);
  return series.map((one) =>
    one.values.map((value, index) => {
      if (one.hidden || value === null) return one.hidden ? null : sums[index]!;
      return (sums[index]! += value);
    }),
  );
}

const HOUR = 3600;
const DAY = 86_400;

/** Labels of the time axis: the day stands where it begins. */
function timeLabels(_: uPlot, splits: number[], __: number, ___: number, step: number): string[] {
  let day = "";
  return splits.map((split) => {
    const text = time(split * 1000);
    const today = text.slice(5, 10);
    const isNew = today !== day;
    day = today;
    if (step >= DAY) return today;
    const hours = step >= 60 ? text.slice(11, 16) : text.slice(11);
    return isNew && (split % DAY === 0 || step >= HOUR) ? `${hours}\n${today}` : hours;
  });
}

export function Plot(props: Props) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const setting = useSettings();
  const [tip, setTip] = useState<{ left: number; top: number; lines: { text: string; color: string }[]; head: string } | null>(null);
  const [spoken, setSpoken] = useState("");
  const { times, series, stacked = false, zero = false, log = false, height = 360, markers } = props;
  const unit = props.unit ?? short;
  const shape = JSON.stringify([
    series.map((one) => [one.label, one.hidden ?? false, one.style ?? null, one.dashed ?? false]),
    stacked, zero, log, height, setting.theme, setting.utc, isDark(), props.sync ?? "", (markers ?? []).length,
  ]);

  const data = (): uPlot.AlignedData => {
    const values = stacked ? stack(series, times.length) : series.map((one) => one.values);
    // A logarithm has no place for zero and below.
    const shown = log ? values.map((list) => list.map((value) => (value !== null && value > 0 ? value : null))) : values;
    return [times, ...shown] as uPlot.AlignedData;
  };

  useEffect(() => {
    const element = host.current!;
    const line = color("line");
    const faint = color("faint");
    const font = "12px system-ui, sans-serif";
    const lines: uPlot.Series[] = series.map((one, index) => {
      const { stroke, dash } = seriesStyle(one.style ?? index);
      return {
        label: one.label,
        show: !one.hidden,
        stroke,
        dash: one.dashed ? [6, 4] : dash,
        width: 1.5,
        fill: stacked ? `color-mix(in srgb, ${stroke} 35%, transparent)` : undefined,
        points: { show: points, size: 5, fill: stroke, stroke },
        spanGaps: false,
      };
    });
    function points(_: uPlot, seriesIndex: number): boolean {
      // A sample without neighbours is no line: it is drawn as a point.
      const values = latest.current.series[seriesIndex - 1]?.values ?? [];
      let alone = false;
      for (let i = 0; i < values.length && !alone; i += 1) {
        alone = values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
      }
      return alone;
    }
    const options: uPlot.Options = {
      width: Math.max(200, element.clientWidth - (props.bare ? 0 : 14)),
      height,
      padding: props.bare ? [6, 12, 0, 0] : undefined,
      legend: { show: false },
      cursor: {
        drag: { x: latest.current.onRange !== undefined, y: false, setScale: false },
        sync: props.sync ? { key: props.sync } : undefined,
        points: { size: 6 },
      },
      tzDate: (seconds) => (setting.utc ? uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") : new Date(seconds * 1000)),
      scales: {
        x: { time: true, range: (_, min, max) => (min === max ? [min - 30, max + 30] : [min, max]) },
        y: {
          distr: log ? 3 : 1,
          range: log
            ? undefined
            : (_, min, max) => {
                if (min === null || max === null) return [0, 1];
                const low = zero || stacked || (min >= 0 && min < max * 0.5) ? Math.min(0, min) : min;
                const pad = (max - low || Math.abs(max) || 1) * 0.08;
                return [low === 0 ? 0 : low - pad, max + pad];
              },
        },
      },
      axes: [
        { stroke: faint, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, values: timeLabels, size: props.bare ? 26 : 40, space: 70 },
        { stroke: faint, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, values: (_, splits) => splits.map((split) => (split === null ? "" : unit(split))), size: 64 },
      ],
      series: [{}, ...lines],
      // What lies between a sum and the one below it has the colour of the series.
      bands: stacked ? series.slice(1).map((_, index): uPlot.Band => ({ series: [index + 2, index + 1] })) : [],
      hooks: {
        setCursor: [(u) => showTip(u)],
        setSelect: [
          (u) => {
            const { left, width } = u.select;
            if (width < 4) return;
            const from = u.posToVal(left, "x") * 1000;
            const to = u.posToVal(left + width, "x") * 1000;
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            latest.current.onRange?.(Math.round(from), Math.round(to));
          },
        ],
        draw: [(u) => drawMarkers(u)],
      },
    };
    function drawMarkers(u: uPlot) {
      const list = latest.current.markers ?? [];
      const context = u.ctx;
      context.save();
      context.fillStyle = color("warn");
      for (const marker of list) {
        const x = u.valToPos(marker.at, "x", true);
        const y = u.valToPos(marker.value, "y", true);
        if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
        context.beginPath();
        context.moveTo(x, y - 6);
        context.lineTo(x + 6, y);
        context.lineTo(x, y + 6);
        context.lineTo(x - 6, y);
        context.fill();
      }
      context.restore();
    }
    function showTip(u: uPlot) {
      const { idx, left, top } = u.cursor;
      const now = latest.current;
      now.onCursor?.(idx ?? null);
      if (idx === null || idx === undefined || left === undefined || left < 0 || top === undefined) return setTip(null);
      const at = now.times[idx]!;
      const near = now.series
        .map((one, index) => ({ one, index, y: u.data[index + 1]?.[idx] }))
        .filter((entry) => !entry.one.hidden && entry.y !== null && entry.y !== undefined)
        .map((entry) => ({ ...entry, distance: Math.abs(u.valToPos(entry.y as number, "y") - top) }))
        .sort((a, b) => a.distance - b.distance)
        .slice(0, now.series.length <= 6 ? 6 : 3);
      const marks = (now.markers ?? []).filter((marker) => Math.abs(u.valToPos(marker.at, "x") - left) < 7 && Math.abs(u.valToPos(marker.value, "y") - top) < 9);
      const lines = [
        ...marks.slice(0, 3).map((marker) => ({ text: `◆ ${visible(marker.text, 400)}`, color: color("warn") })),
        ...near.map((entry) => ({
          text: `${visible(entry.one.label, 300)}: ${(now.unit ?? short)(entry.one.values[idx]!)} (${entry.one.values[idx]})`,
          color: seriesStyle(entry.one.style ?? entry.index).stroke,
        })),
      ];
      setTip({ left: left + u.bbox.left / devicePixelRatio, top: top + 18, head: time(at * 1000), lines });
    }
    const made = new uPlot(options, data(), element);
    plot.current = made;
    // Shift and drag moves the range instead of choosing one.
    const onDown = (event: MouseEvent) => {
      if (!event.shiftKey || !latest.current.onRange || latest.current.times.length < 2) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const begin = event.clientX;
      const perPixel = (made.scales.x!.max! - made.scales.x!.min!) / made.over.clientWidth;
      const onUp = (up: MouseEvent) => {
        const by = (begin - up.clientX) * perPixel;
        if (Math.abs(up.clientX - begin) < 4) return;
        latest.current.onRange?.(Math.round((made.scales.x!.min! + by) * 1000), Math.round((made.scales.x!.max! + by) * 1000));
      };
      addEventListener("mouseup", onUp, { once: true });
    };
    made.over.addEventListener("mousedown", onDown, { capture: true });
    const observer = new ResizeObserver(() => {
      const width = Math.max(200, element.clientWidth - (props.bare ? 0 : 14));
      if (Math.abs(width - made.width) > 1) made.setSize({ width, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(data());
  }, [times, series, stacked, log]);

  const onKey = (event: KeyboardEvent) => {
    const u = plot.current;
    if (!u || times.length === 0) return;
    const from = times[0]! * 1000;
    const to = times[times.length - 1]! * 1000;
    const move = (by: number) => props.onRange?.(Math.round(from + by * (to - from)), Math.round(to + by * (to - from)));
    const now = u.cursor.idx ?? times.length - 1;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      const back = event.key === "ArrowLeft";
      if (event.shiftKey) return move(back ? -0.5 : 0.5);
      const index = Math.max(0, Math.min(times.length - 1, now + (back ? -1 : 1)));
      const first = series.find((one) => !one.hidden && one.values[index] !== null);
      const value = first?.values[index] ?? null;
      const top = value === null ? u.over.clientHeight / 2 : u.valToPos(value, "y");
      u.setCursor({ left: u.valToPos(times[index]!, "x"), top });
      const values = series.filter((one) => !one.hidden).slice(0, 5).map((one) => `${visible(one.label, 80)} ${one.values[index] === null ? "no sample" : unit(one.values[index]!)}`);
      setSpoken(`${clock(times[index]! * 1000)} ${values.join(", ")}`);
    } else if (event.key === "+" || event.key === "-") {
      event.preventDefault();
      const by = ((to - from) * (event.key === "+" ? -0.5 : 1)) / 2;
      props.onRange?.(Math.round(from - by), Math.round(to + by));
    } else if (event.key === "Escape") {
      u.setCursor({ left: -10, top: -10 });
      setTip(null);
    }
  };

  return (
    <div
      class={props.bare ? "chart bare" : "chart"}
      tabIndex={0}
      role="group"
      aria-label={`${props.label}; chart, times in ${zone()}. Arrow keys read values${props.onRange ? ", plus and minus change the range, shift and arrows move it" : ""}`}
      onKeyDown={onKey}
    >
      <div ref={host} aria-hidden="true" />
      <span class="sr" role="status">{spoken}</span>
      {tip && tip.lines.length > 0 && (
        <div class="tip" style={{ left: `${tip.left > 400 ? tip.left - 330 : tip.left + 14}px`, top: `${tip.top}px` }}>
          <div class="faint">{tip.head} {zone()}</div>
          {tip.lines.map((one, index) => (
            <div key={index}><span class="swatch" style={{ background: one.color }} /> {one.text}</div>
          ))}
        </div>
      )}
    </div>
  );
}
