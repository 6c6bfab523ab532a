// Colours for canvases, read from the style sheet.

export function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "#888";
}

/** Colour and dashes of the series with this index: eight colours, then the same dashed, then dotted. */
export function seriesStyle(index: number): { stroke: string; dash: number[] } {
  const dashes = [[], [8, 4], [2, 3]];
  return { stroke: color(`series-${(index % 8) + 1}`), dash: dashes[Math.floor(index / 8) % dashes.length]! };
}

/** A colour of one hue for a share from 0 to 1; darker in light mode, lighter in dark mode. */
export function heat(share: number, dark: boolean): string {
  const clamped = Math.min(1, Math.max(0, share));
  const lightness = dark ? 20 + 65 * clamped : 95 - 65 * clamped;
  return `hsl(212 78% ${lightness.toFixed(1)}%)`;
}
