// The page /fleet: the members, their shares, and targets on their way.
import { useState } from "preact/hooks";
import { Empty, Meter, Problem, State, Table, Waiting } from "../components/basic";
import { Refresh } from "../components/refresh";
import { get } from "../lib/api";
import { whole } from "../lib/format";
import { usePoll } from "../lib/poll";
import { visible } from "../lib/text";

interface Member {
  name: string;
  address: string;
  zone: string;
  weight: number;
  targets: number | null;
  leaving: number | null;
  dividesAlike: boolean | null;
  error: string | null;
}

interface Fleet {
  member: string | null;
  fingerprint: string;
  members: Member[];
  problems: string[];
  findings: string[];
  split: string[];
  active: number;
  leaving: number;
  others: number;
  handedOverTotal: number;
  expiredTotal: number;
}

const SECTION = `fleet:
  member: scrape-1
  static_configs:
    - targets: ['scrape-1:9090', 'scrape-2:9090']`;

export function FleetPage() {
  const [interval, setInterval] = useState(5_000);
  const { data, error, at, refresh } = usePoll("fleet", interval, (signal) => get<Fleet>("status/fleet", {}, { signal }));
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  if (data.member === null) {
    return (
      <>
        <p>This process is no member of a fleet: its configuration has no section <code>fleet</code>. Several processes with the same section divide the targets of one file among them.</p>
        <pre tabIndex={0} role="region" aria-label="example of a section">{SECTION}</pre>
      </>
    );
  }
  const zones = [...new Set(data.members.map((one) => one.zone))].sort();
  const total = data.members.reduce((sum, one) => sum + (one.targets ?? 0), 0);
  const state = (one: Member) =>
    one.error !== null ? <State of="down" word="does not answer" /> : one.dividesAlike === false ? <State of="warn" word="another list" /> : one.dividesAlike === null ? <State of="unknown" word="not asked yet" /> : <State of="good" word="good" />;
  return (
    <>
      {error !== null && <Problem error={error} />}
      <div class="bar">
        <span>Member <strong>{visible(data.member, 100)}</strong> of {data.members.length}</span>
        <span>{data.split.length === 0 ? <State of="good" word="lists agree" /> : <State of="down" word={`${data.split.length} see another list`} />}</span>
        <span>{whole(data.active)} targets here, {whole(data.leaving)} on their way, {whole(data.others)} of others</span>
        <span class="faint">handed over {whole(data.handedOverTotal)}, at the deadline {whole(data.expiredTotal)}</span>
        <Refresh value={interval} onChange={setInterval} at={at} onNow={refresh} />
      </div>
      {[...data.problems, ...data.findings].slice(0, 30).map((text, index) => <div class="note" key={index}>{visible(text, 800)}</div>)}
      {data.split.slice(0, 30).map((other) => <div class="note" key={other}>Member {visible(other, 100)} sees another list of members, or divides by other rules.</div>)}
      <h2>Map</h2>
      {zones.map((zone) => (
        <section key={zone} aria-label={zone === "" ? "members" : `zone ${visible(zone, 100)}`}>
          {(zones.length > 1 || zone !== "") && <h3>{zone === "" ? "no zone" : `zone ${visible(zone, 100)}`}</h3>}
          <div class="bar">
            {data.members.filter((one) => one.zone === zone).slice(0, 200).map((one) => (
              <div class="card" key={one.name} style={{ flex: `${Math.max(1, one.targets ?? 1)} 1 180px`, maxWidth: "480px" }}>
                <strong>{visible(one.name, 100)}</strong>{one.name === data.member ? " (this)" : ""} <span class="faint">weight {one.weight}</span>
                <div>{state(one)}</div>
                <div>{one.targets === null ? <span class="faint">–</span> : `${whole(one.targets)} targets, ${((100 * one.targets) / Math.max(1, total)).toFixed(1)} %`}</div>
                <Meter neutral value={one.targets ?? 0} max={Math.max(1, total)} label={`share of ${visible(one.name, 60)}`} />
                {(one.leaving ?? 0) > 0 && <div class="warn-text">▲ {whole(one.leaving!)} on their way to others</div>}
              </div>
            ))}
          </div>
        </section>
      ))}
      {data.members.length === 0 && <Empty>The list of members is empty.</Empty>}
      <h2>Members</h2>
      <Table head={["Member", "Address", "Zone", "Weight", "Targets", "Share", "Leaving", "State"]} numbers={[3, 4, 5, 6]} label="members">
        {data.members.map((one) => (
          <tr key={one.name}>
            <th scope="row">{visible(one.name, 200)}</th>
            <td class="wrap">{visible(one.address, 200)}</td>
            <td>{visible(one.zone, 100)}</td>
            <td class="number">{one.weight}</td>
            <td class="number">{one.targets === null ? "" : whole(one.targets)}</td>
            <td class="number">{one.targets === null ? "" : `${((100 * one.targets) / Math.max(1, total)).toFixed(1)} %`}</td>
            <td class="number">{one.leaving ?? ""}</td>
            <td class="wrap">{state(one)}{one.error !== null && <div class="error">{visible(one.error, 600)}</div>}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}
