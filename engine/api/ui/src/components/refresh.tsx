import { clock, zone } from "../lib/format";
import { useSettings } from "../lib/hooks";

/** How often a page asks again, and when it last did. */
export function Refresh({ value, onChange, at, onNow }: { value: number; onChange: (ms: number) => void; at: number; onNow: () => void }) {
  useSettings();
  return (
    <span class="bar" style={{ margin: 0 }}>
      <button type="button" data-refresh onClick={onNow} aria-label="refresh now" title="refresh (.)">↻</button>
      <select aria-label="refresh every" value={String(value)} onChange={(event) => onChange(Number(event.currentTarget.value))}>
        {[["0", "off"], ["5000", "5 s"], ["15000", "15 s"], ["60000", "60 s"]].map(([ms, text]) => <option value={ms} key={ms}>{text}</option>)}
      </select>
      {at > 0 && <span class="faint">{clock(at)} {zone()}</span>}
    </span>
  );
}
