// An expression as a tree of its parts, each with its place in the text and what it does in words.
import type { SyntaxNode } from "@lezer/common";
import { parser } from "@prometheus-io/lezer-promql";

export interface ExprNode {
  kind: string;
  text: string;
  from: number;
  to: number;
  /** What it does. */
  says: string;
  /** Whether it can be asked for by itself at one time: a range has no value of its own. */
  isVector: boolean;
  children: ExprNode[];
}

const EXPRESSIONS = new Set([
  "AggregateExpr", "BinaryExpr", "FunctionCall", "MatrixSelector", "NumberDurationLiteral", "OffsetExpr", "ParenExpr",
  "StringLiteral", "SubqueryExpr", "UnaryExpr", "VectorSelector", "StepInvariantExpr", "AnchoredExpr", "SmoothedExpr",
]);
/** Parts of a tree: what is left out stays text of its parent. */
const NODES_MAX = 60;

function children(node: SyntaxNode): SyntaxNode[] {
  const found: SyntaxNode[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) {
    if (EXPRESSIONS.has(child.name)) found.push(child);
    else found.push(...children(child));
  }
  return found;
}

function find(node: SyntaxNode, name: string): SyntaxNode | null {
  for (let child = node.firstChild; child; child = child.nextSibling) if (child.name === name) return child;
  return null;
}

function says(node: SyntaxNode, doc: string): string {
  const text = (of: SyntaxNode | null) => (of ? doc.slice(of.from, of.to) : "");
  switch (node.name) {
    case "VectorSelector": {
      const matchers = find(node, "LabelMatchers");
      return matchers ? "the newest sample of each series that the matchers select" : "the newest sample of each series with this name";
    }
    case "MatrixSelector":
      return `all samples of the time ${/\[([^\]]*)\]\s*$/.exec(text(node))?.[1] ?? ""} before each step, of each series`;
    case "SubqueryExpr":
      return "the inner expression, evaluated again and again over this range";
    case "AggregateExpr": {
      const by = find(node, "AggregateModifier");
      const labels = text(by).replace(/^\w+/, "").trim();
      if (!by) return `${text(find(node, "AggregateOp"))} over all series: one result`;
      return /^without/i.test(text(by))
        ? `${text(find(node, "AggregateOp"))} of the series that differ in nothing but ${labels}`
        : `${text(find(node, "AggregateOp"))} of the series that have the same ${labels}`;
    }
    case "FunctionCall":
      return `${text(find(node, "FunctionIdentifier"))} of each series`;
    case "BinaryExpr": {
      const matching = find(node, "MatchingModifierClause");
      const on = text(matching);
      if (/group_left/i.test(on)) return `pairs many series of the left side with one of the right side: ${on}`;
      if (/group_right/i.test(on)) return `pairs one series of the left side with many of the right side: ${on}`;
      return matching ? `pairs the series of both sides: ${on}` : "pairs the series of both sides that have the same labels";
    }
    case "OffsetExpr":
      return "the same, as it was at another time";
    case "StepInvariantExpr":
      return "the same at one fixed time";
    case "ParenExpr":
      return "in parentheses";
    case "UnaryExpr":
      return "with its sign changed";
    case "NumberDurationLiteral":
      return "a number";
    case "StringLiteral":
      return "a text";
    default:
      return "";
  }
}

/** Whether a node's value is a range: it, or what only changes its time, is a range selector. */
function isRange(node: SyntaxNode): boolean {
  if (node.name === "MatrixSelector" || node.name === "SubqueryExpr") return true;
  if (!["OffsetExpr", "StepInvariantExpr", "AnchoredExpr", "SmoothedExpr", "ParenExpr"].includes(node.name)) return false;
  return children(node).slice(0, 1).some(isRange);
}

/** Parts that stand behind an operand and change its time. */
const SUFFIXES = new Set(["OffsetExpr", "StepInvariantExpr", "AnchoredExpr", "SmoothedExpr"]);

/** The tree of an expression; null if it is not one. */
export function exprTree(doc: string): ExprNode | null {
  const top = parser.parse(doc).topNode;
  let count = 0;
  const make = (node: SyntaxNode, from: number, to: number, inner: ExprNode[]): ExprNode => {
    const constant = node.name === "NumberDurationLiteral" || node.name === "StringLiteral";
    const isVector = !isRange(node) && !constant;
    return { kind: node.name, text: doc.slice(from, to), from, to, says: says(node, doc), isVector, children: inner };
  };
  /** `suffix` is what stands behind: the grammar hangs it on a whole `a / b`, but it belongs to `b` alone. */
  const build = (node: SyntaxNode, depth: number, suffix: SyntaxNode[]): ExprNode => {
    count += 1;
    const to = suffix[0]?.to ?? node.to;
    const inner = depth < 40 && count < NODES_MAX ? children(node) : [];
    if (SUFFIXES.has(node.name) && inner.length === 1 && inner[0]!.name === "BinaryExpr") {
      return build(inner[0]!, depth, [...suffix, node]);
    }
    if (node.name === "BinaryExpr" && suffix.length > 0 && inner.length === 2) {
      return make(node, node.from, to, [build(inner[0]!, depth + 1, []), build(inner[1]!, depth + 1, suffix)]);
    }
    const own = make(node, node.from, node.to, inner.map((child) => build(child, depth + 1, [])));
    return suffix.reduceRight((child, behind) => ({ ...make(behind, node.from, behind.to, [child]), isVector: child.isVector }), own);
  };
  const first = children(top)[0];
  return first ? build(first, 0, []) : null;
}
