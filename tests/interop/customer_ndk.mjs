// A customer made of NDK alone, which encrypts what it asks in NDK's own way (NIP-44).
//
//   node customer_ndk.mjs '{"relay": "ws://…", "kind": 5001, "input": "a text", "to": "public key", …}'
//
// The wish may also hold: params {name: value}, bid_msat, seconds (30). It prints JSON lines: request, feedback (with all
// tags, as NDK decrypted them), result. Code 0: the result came; 3: the provider said error; 4: nothing came in time.

import NDK, { NDKDVMJobFeedback, NDKDVMJobResult, NDKDVMRequest, NDKPrivateKeySigner } from '@nostr-dev-kit/ndk'

const wish = { params: {}, seconds: 30, ...JSON.parse(process.argv[2]) }
const ndk = new NDK({
  explicitRelayUrls: [wish.relay],
  enableOutboxModel: false, // or it calls relays out there
  signer: NDKPrivateKeySigner.generate(),
})

function print(type, fields) {
  process.stdout.write(JSON.stringify({ type, ...fields }) + '\n')
}

async function makeRequest() {
  const request = new NDKDVMRequest(ndk, { kind: wish.kind })
  request.addInput(wish.input, 'text')
  for (const [name, value] of Object.entries(wish.params)) request.addParam(name, value)
  if (wish.bid_msat) request.bid = wish.bid_msat
  request.tags.push(['relays', wish.relay])
  await request.encryption(ndk.getUser({ pubkey: wish.to }))
  await request.sign()
  return request
}

async function readFeedback(event) {
  const signed = structuredClone(event.rawEvent()) // decrypting changes it
  const feedback = await NDKDVMJobFeedback.from(event)
  const [, status = '', info = ''] = feedback.tags.find((tag) => tag[0] === 'status') ?? []
  print('feedback', { status: feedback.status ?? status, info, tags: feedback.tags, event: signed })
  if (status === 'error') process.exit(3)
}

async function readResult(event) {
  const signed = structuredClone(event.rawEvent()) // decrypting changes it
  const result = NDKDVMJobResult.from(event)
  await result.decrypt()
  print('result', { content: result.result, request_id: result.jobRequestId, event: signed })
  process.exit(0)
}

setTimeout(() => process.exit(4), wish.seconds * 1000)
await ndk.connect(5000)
const request = await makeRequest()
const answers = ndk.subscribe({ kinds: [7000, wish.kind + 1000], '#e': [request.id] }, { closeOnEose: false })
let read = Promise.resolve() // one after the other, as they came: decrypting takes its time
answers.on('event', (event) => {
  read = read.then(() => (event.kind === 7000 ? readFeedback(event) : readResult(event)))
})
answers.once('eose', async () => {
  print('request', { event: request.rawEvent() })
  await request.publish()
})
