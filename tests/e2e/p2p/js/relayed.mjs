// A js-libp2p peer that is reached, or reaches others, through a circuit relay.
//   node relayed.mjs dial ADDRESS      pings through the circuit; prints one line of JSON
//   node relayed.mjs listen RELAY      holds a reservation; prints its relayed address, until it is killed
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { ping } from '@libp2p/ping'
import { identify } from '@libp2p/identify'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { multiaddr } from '@multiformats/multiaddr'

const [role, address] = process.argv.slice(2)

const node = await createLibp2p({
  addresses: { listen: role === 'listen' ? [`${address}/p2p-circuit`] : [] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { ping: ping(), identify: identify() }
})

if (role === 'dial') {
  const connection = await node.dial(multiaddr(address))
  await node.services.ping.ping(multiaddr(address), { runOnLimitedConnection: true })
  console.log(JSON.stringify({ seconds: connection.limits.seconds, bytes: Number(connection.limits.bytes) }))
  process.exit(0)
}

const timer = setInterval(() => {
  const [first] = node.getMultiaddrs()
  if (first === undefined) return
  console.log(first.toString())
  clearInterval(timer)
}, 50)
