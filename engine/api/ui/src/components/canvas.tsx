// Small pictures in rows: outcomes of scrapes as bars, a figure over time as a line.
import { useEffect, useRef } from "preact/hooks";
import { useSettings } from "../lib/hooks";
import { isDark } from "../lib/settings";
import { color } from "../lib/theme";

function prepare(element: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const scale = devicePixelRatio || 1;
  element.width = width * scale;
  element.height = height * scale;
  const context = element.getContext("2d")!;
  context.scale(scale, scale);
  return context;
}

/** The last 64 outcomes, oldest first. A failed scrape is a short bar of another colour, so that both say it. */
export function StateBar({ outcomes, count, width = 150 }: { outcomes: string; count: number; width?: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const setting = useSettings();
  const shown = Math.min(64, count);
  useEffect(() => {
    const context = prepare(canvas.current!, width, 14);
    const bits = BigInt(`0x${outcomes || "0"}`);
    const [up, down, none] = [color("up"), color("down"), color("line")];
    const step = width / 64;
    for (let i = 0; i < 64; i += 1) {
      const isKnown = i < shown;
      const isGood = isKnown && ((bits >> BigInt(i)) & 1n) === 1n;
      context.fillStyle = !isKnown ? none : isGood ? up : down;
      const height = !isKnown ? 2 : isGood ? 14 : 7;
      context.fillRect(width - (i + 1) * step, 14 - height, step - 0.6, height);
    }
  }, [outcomes, shown, width, setting.theme, isDark()]);
  const bits = BigInt(`0x${outcomes || "0"}`);
  let good = 0;
  for (let i = 0; i < shown; i += 1) good += Number((bits >> BigInt(i)) & 1n);
  const text = `${good} of the last ${shown} scrapes were good`;
  return <canvas ref={canvas} class="bits" style={{ width: `${width}px` }} role="img" aria-label={text} title={text} />;
}

/** A line without axes. */
export function Spark({ values, label, width = 100, height = 20, max }: { values: (number | null)[] | undefined; label: string; width?: number; height?: number; max?: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const setting = useSettings();
  useEffect(() => {
    const context = prepare(canvas.current!, width, height);
    if (!values || values.length === 0) return;
    const known = values.filter((value): value is number => value !== null);
    const most = Math.max(max ?? 0, ...known) || 1;
    context.strokeStyle = color("series-1");
    context.lineWidth = 1.2;
    context.beginPath();
    let down = false;
    values.forEach((value, index) => {
      if (value === null) {
        down = false;
        return;
      }
      const x = values.length === 1 ? width / 2 : (index / (values.length - 1)) * (width - 2) + 1;
      const y = height - 2 - (value / most) * (height - 4);
      if (down) context.lineTo(x, y);
      else context.moveTo(x, y);
      down = true;
    });
    context.stroke();
  }, [values, width, height, max, setting.theme, isDark()]);
  return <canvas ref={canvas} class="spark" style={{ width: `${width}px`, height: `${height}px` }} role="img" aria-label={label} />;
}
