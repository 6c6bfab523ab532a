// Lines that two texts do not have in common.

export interface DiffLine {
  kind: " " | "+" | "-" | "…";
  text: string;
}

/** Lines around a difference that are shown with it. */
const CONTEXT = 3;
/** Beyond this product of lengths, the texts are compared as wholes: the table would be too large. */
const CELLS_MAX = 4_000_000;

function middle(before: string[], after: string[]): DiffLine[] {
  const [rows, columns] = [before.length, after.length];
  if (rows * columns > CELLS_MAX) {
    return [...before.map((text): DiffLine => ({ kind: "-", text })), ...after.map((text): DiffLine => ({ kind: "+", text }))];
  }
  // Lengths of the longest common subsequences of the ends.
  const width = columns + 1;
  const lengths = new Uint16Array((rows + 1) * width);
  for (let row = rows - 1; row >= 0; row -= 1) {
    for (let column = columns - 1; column >= 0; column -= 1) {
      lengths[row * width + column] =
        before[row] === after[column]
          ? lengths[(row + 1) * width + column + 1]! + 1
          : Math.max(lengths[(row + 1) * width + column]!, lengths[row * width + column + 1]!);
    }
  }
  const lines: DiffLine[] = [];
  let [row, column] = [0, 0];
  while (row < rows || column < columns) {
    if (row < rows && column < columns && before[row] === after[column]) {
      lines.push({ kind: " ", text: before[row]! });
      row += 1;
      column += 1;
    } else if (row < rows && (column >= columns || lengths[(row + 1) * width + column]! >= lengths[row * width + column + 1]!)) {
      lines.push({ kind: "-", text: before[row]! });
      row += 1;
    } else {
      lines.push({ kind: "+", text: after[column]! });
      column += 1;
    }
  }
  return lines;
}

/** The difference, with a few lines around each place. */
export function differences(before: string[], after: string[]): DiffLine[] {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head += 1;
  let tail = 0;
  while (tail < before.length - head && tail < after.length - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  const same = (text: string): DiffLine => ({ kind: " ", text });
  const all = [
    ...before.slice(0, head).map(same),
    ...middle(before.slice(head, before.length - tail), after.slice(head, after.length - tail)),
    ...before.slice(before.length - tail).map(same),
  ];
  const near = new Uint8Array(all.length);
  all.forEach((line, index) => {
    if (line.kind !== " ") near.fill(1, Math.max(0, index - CONTEXT), index + CONTEXT + 1);
  });
  const shown: DiffLine[] = [];
  let skipped = 0;
  all.forEach((line, index) => {
    if (near[index] === 1) {
      if (skipped > 0) shown.push({ kind: "…", text: `${skipped} equal lines` });
      skipped = 0;
      shown.push(line);
    } else skipped += 1;
  });
  return shown;
}
