// Rows of which only those in view exist. Heights are known before they are drawn.
import type { CSSProperties, ComponentChildren, JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

/** Rows drawn above and below what is in view. */
const MARGIN = 6;

export interface WindowItem {
  key: string;
  height: number;
}

interface Props<T extends WindowItem> {
  items: T[];
  head: ComponentChildren;
  label: string;
  columns: number;
  render: (item: T, index: number, style: CSSProperties) => JSX.Element;
  /** Which items are in view, after they stood still for a moment. */
  onView?: (items: T[]) => void;
  reveal?: number | null;
}

export function WindowRows<T extends WindowItem>({ items, head, label, columns, render, onView, reveal }: Props<T>) {
  const host = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const offsets = useMemo(() => {
    const all = new Float64Array(items.length + 1);
    items.forEach((item, index) => (all[index + 1] = all[index]! + item.height));
    return all;
  }, [items]);
  const total = offsets[items.length] ?? 0;

  /** The item at this many pixels from the top. */
  const at = (pixels: number): number => {
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (offsets[middle + 1]! <= pixels) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  useEffect(() => {
    const element = host.current!;
    const measure = () => setHeight(element.clientHeight);
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (reveal === null || reveal === undefined) return;
    const element = host.current!;
    const from = offsets[reveal] ?? 0;
    const to = offsets[reveal + 1] ?? from;
    if (from < element.scrollTop) element.scrollTop = from;
    else if (to > element.scrollTop + element.clientHeight - 40) element.scrollTop = to - element.clientHeight + 40;
  }, [reveal, offsets]);
  const first = Math.max(0, at(top) - MARGIN);
  const last = Math.min(items.length, at(top + height) + 1 + MARGIN);
  const viewed = useRef(onView);
  viewed.current = onView;
  useEffect(() => {
    const timer = setTimeout(() => viewed.current?.(items.slice(first, last)), 120);
    return () => clearTimeout(timer);
  }, [items, first, last]);
  const rows: JSX.Element[] = [];
  for (let index = first; index < last; index += 1) {
    rows.push(render(items[index]!, index, { top: `${offsets[index]}px`, height: `${items[index]!.height}px` }));
  }
  // All rows that there are, so that the page itself does not scroll as well.
  const shown = Math.min(total + 34, Math.max(320, innerHeight - 230));
  return (
    <div
      class="rows"
      ref={host}
      role="table"
      aria-label={label}
      aria-rowcount={items.length + 1}
      aria-colcount={columns}
      tabIndex={0}
      style={{ height: `${shown}px` }}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)}
    >
      <div role="rowgroup" class="head-group" style={{ position: "sticky", top: 0, zIndex: 2 }}>{head}</div>
      <div class="space" role="rowgroup" style={{ height: `${total}px` }}>{rows}</div>
    </div>
  );
}
