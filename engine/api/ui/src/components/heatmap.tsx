// Buckets of a histogram over time: one hue, darker is more.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { short, time, zone } from "../lib/format";
import { useSettings } from "../lib/hooks";
import { isDark } from "../lib/settings";
import { color, heat } from "../lib/theme";

export interface Band {
  low: number;
  high: number;
}

export interface HeatData {
  label: string;
  /** Unix seconds. */
  times: number[];
  /** From low to high, each with its counts by time. */
  bands: Band[];
  counts: (number | null)[][];
}

const LEFT = 64;
const BOTTOM = 22;

/** The bound below which this share of the samples lies, or null. */
function quantile(data: HeatData, column: number, share: number): number | null {
  let total = 0;
  for (const row of data.counts) total += Math.max(0, row[column] ?? 0);
  if (total === 0) return null;
  let sum = 0;
  for (let row = 0; row < data.bands.length; row += 1) {
    const count = Math.max(0, data.counts[row]![column] ?? 0);
    if (sum + count >= total * share && count > 0) return row + (total * share - sum) / count;
    sum += count;
  }
  return data.bands.length;
}

export function Heatmap({ data, height = 300 }: { data: HeatData; height?: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const setting = useSettings();
  const [width, setWidth] = useState(800);
  const [cell, setCell] = useState<{ row: number; column: number; left: number; top: number } | null>(null);
  const most = useMemo(() => data.counts.reduce((max, row) => row.reduce<number>((inner, count) => Math.max(inner, count ?? 0), max), 0), [data]);

  useEffect(() => {
    const observer = new ResizeObserver(() => setWidth(canvas.current?.clientWidth ?? 800));
    observer.observe(canvas.current!);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    const element = canvas.current!;
    const scale = devicePixelRatio || 1;
    element.width = width * scale;
    element.height = height * scale;
    const context = element.getContext("2d")!;
    context.scale(scale, scale);
    context.clearRect(0, 0, width, height);
    const rows = data.bands.length;
    const columns = data.times.length;
    if (rows === 0 || columns === 0) return;
    const cellWidth = (width - LEFT) / columns;
    const cellHeight = (height - BOTTOM) / rows;
    const dark = isDark();
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const count = data.counts[row]![column] ?? 0;
        if (!(count > 0)) continue;
        context.fillStyle = heat(Math.sqrt(count / most), dark);
        context.fillRect(LEFT + column * cellWidth, height - BOTTOM - (row + 1) * cellHeight, Math.ceil(cellWidth), Math.ceil(cellHeight));
      }
    }
    // Lines of the 50th, 90th and 99th percentile.
    for (const [share, name] of [[0.5, "series-3"], [0.9, "series-2"], [0.99, "series-4"]] as const) {
      context.strokeStyle = color(name);
      context.lineWidth = 1.5;
      context.beginPath();
      let down = false;
      for (let column = 0; column < columns; column += 1) {
        const at = quantile(data, column, share);
        if (at === null) {
          down = false;
          continue;
        }
        const x = LEFT + (column + 0.5) * cellWidth;
        const y = height - BOTTOM - at * cellHeight;
        if (down) context.lineTo(x, y);
        else context.moveTo(x, y);
        down = true;
      }
      context.stroke();
    }
    context.fillStyle = color("faint");
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "right";
    const every = Math.max(1, Math.ceil(18 / cellHeight));
    for (let row = 0; row < rows; row += every) {
      context.fillText(short(data.bands[row]!.high), LEFT - 6, height - BOTTOM - (row + 1) * cellHeight + 10);
    }
    context.textAlign = "center";
    const spans = data.times[columns - 1]! - data.times[0]!;
    const step = Math.max(1, Math.ceil(90 / cellWidth));
    for (let column = Math.floor(step / 2); column < columns; column += step) {
      context.fillText(time(data.times[column]! * 1000).slice(11, spans < 1_800 ? 19 : 16), LEFT + (column + 0.5) * cellWidth, height - 6);
    }
  }, [data, width, height, most, setting.theme, setting.utc, isDark()]);

  const onMove = (event: MouseEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT)) * data.times.length);
    const row = data.bands.length - 1 - Math.floor(((event.clientY - box.top) / (box.height - BOTTOM)) * data.bands.length);
    const inside = column >= 0 && column < data.times.length && row >= 0 && row < data.bands.length;
    setCell(inside ? { row, column, left: event.clientX - box.left, top: event.clientY - box.top + 16 } : null);
  };
  const last = data.times.length - 1;
  return (
    <figure class="chart" style={{ margin: "0 0 10px" }}>
      <figcaption class="mono">{data.label}</figcaption>
      <canvas ref={canvas} class="heat" role="img" aria-label={`heat map of ${data.label}; the table of its buckets is below`} onMouseMove={onMove} onMouseLeave={() => setCell(null)} />
      {cell && (
        <div class="tip" style={{ left: `${cell.left > width / 2 ? cell.left - 250 : cell.left + 14}px`, top: `${cell.top}px` }}>
          <div class="faint">{time(data.times[cell.column]! * 1000)} {zone()}</div>
          {short(data.bands[cell.row]!.low)} to {short(data.bands[cell.row]!.high)}: {data.counts[cell.row]![cell.column] ?? 0}
        </div>
      )}
      <div class="faint">most in a cell: {short(most)}; lines: 50, 90 and 99 % below</div>
      <details>
        <summary>buckets at the end</summary>
        <table class="values">
          <thead><tr><th scope="col">from</th><th scope="col">to</th><th scope="col" class="number">count</th></tr></thead>
          <tbody>
            {data.bands.map((band, row) => (
              <tr key={row}><td>{short(band.low)}</td><td>{short(band.high)}</td><td class="number">{data.counts[row]![last] ?? "–"}</td></tr>
            ))}
          </tbody>
        </table>
      </details>
    </figure>
  );
}
