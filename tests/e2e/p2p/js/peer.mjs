// A js-libp2p peer for tests and benchmarks.
//   node peer.mjs serve                    prints its address, and answers until it is killed
//   node peer.mjs call ADDRESS WISH JSON   does one thing and prints one line of JSON
import { createHash } from 'node:crypto'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { ping } from '@libp2p/ping'
import { identify } from '@libp2p/identify'
import { multiaddr } from '@multiformats/multiaddr'

const [ECHO, HASH, RESET, BULK] = ['echo', 'hash', 'reset', 'bulk'].map(name => `/test/${name}`)
const [role, address, wish, options] = process.argv.slice(2)

const node = await createLibp2p({
  addresses: { listen: role === 'serve' ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { ping: ping(), identify: identify() }
})

const identified = new Promise(resolve => node.addEventListener('peer:identify', event => resolve(event.detail)))
const send = async (stream, data) => { if (!stream.send(data)) await stream.onDrain() }

async function * parts (stream) {
  for await (const part of stream) yield Buffer.from(part.subarray())
}

async function readAll (stream) {
  const all = []
  for await (const part of parts(stream)) all.push(part)
  return Buffer.concat(all)
}

class Reader {
  constructor (stream) { this.parts = parts(stream); this.rest = Buffer.alloc(0) }

  async exactly (size) {
    while (this.rest.length < size) {
      const { done, value } = await this.parts.next()
      if (done) throw new Error('ended early')
      this.rest = Buffer.concat([this.rest, value])
    }
    const data = this.rest.subarray(0, size)
    this.rest = this.rest.subarray(size)
    return data
  }
}

await node.handle(ECHO, async stream => {
  for await (const part of parts(stream)) await send(stream, part)
  await stream.close()
}, { maxInboundStreams: 1000, maxOutboundStreams: 1000 })

await node.handle(HASH, async stream => {
  const hash = createHash('sha256')
  for await (const part of parts(stream)) hash.update(part)
  await send(stream, hash.digest())
  await stream.close()
})

await node.handle(RESET, async stream => {
  await send(stream, Buffer.from('before'))
  await new Reader(stream).exactly(1)
  stream.abort(new Error('as asked for'))
})

await node.handle(BULK, async stream => {
  const reader = new Reader(stream)
  const head = await reader.exactly(8)
  let left = Number(head.readBigUInt64BE()) - reader.rest.length
  while (left > 0) left -= (await reader.parts.next()).value.length
  await send(stream, head)
  await stream.close()
})

async function * noiseBlocks (size) {
  const block = Buffer.alloc(65536)
  for (let sent = 0; sent < size; sent += block.length) {
    block.writeUInt32BE(sent, 0)
    yield Buffer.from(block.subarray(0, Math.min(block.length, size - sent)))
  }
}

const wishes = {
  async ping (connection) {
    return [await node.services.ping.ping(connection.remotePeer), await node.services.ping.ping(connection.remotePeer)]
  },

  async identify () {
    const found = await identified
    return { peer: found.peerId.toString(), protocols: found.protocols }
  },

  async echo (connection, { text }) {
    const stream = await connection.newStream(ECHO)
    await send(stream, Buffer.from(text))
    await stream.close()
    return (await readAll(stream)).toString()
  },

  async hash (connection, { size }) {
    const stream = await connection.newStream(HASH)
    const hash = createHash('sha256')
    for await (const block of noiseBlocks(size)) { hash.update(block); await send(stream, block) }
    await stream.close()
    return { sent: hash.digest('hex'), received: (await readAll(stream)).toString('hex') }
  },

  async many (connection, { count }) {
    const one = async number => {
      const stream = await connection.newStream(ECHO, { maxOutboundStreams: 1000 })
      await send(stream, Buffer.from(`stream ${number}`))
      await stream.close()
      return (await readAll(stream)).toString()
    }
    return await Promise.all(Array.from({ length: count }, (_, number) => one(number)))
  },

  async reset (connection) {
    const stream = await connection.newStream(RESET)
    const reader = new Reader(stream)
    const before = (await reader.exactly(6)).toString()
    await send(stream, Buffer.from('!'))
    try { await reader.exactly(1); return { before, seen: 'data' } } catch (error) { return { before, seen: error.name, text: error.message } }
  },

  async abort (connection) {
    const stream = await connection.newStream(ECHO)
    await send(stream, Buffer.from('x'))
    await new Reader(stream).exactly(1)
    stream.abort(new Error('no more'))
    return await wishes.echo(connection, { text: 'alive' })
  },

  async bulk (connection, { size, chunk }) {
    const stream = await connection.newStream(BULK)
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(size))
    const block = Buffer.alloc(chunk)
    const started = performance.now()
    await send(stream, head)
    for (let sent = 0; sent < size; sent += chunk) await send(stream, block)
    await new Reader(stream).exactly(8)
    return size / (performance.now() - started) / 1e3
  }
}

if (role === 'serve') {
  console.log(node.getMultiaddrs()[0].toString())
} else {
  const connection = await node.dial(multiaddr(address))
  console.log(JSON.stringify(await wishes[wish](connection, JSON.parse(options ?? '{}'))))
  process.exit(0)
}
