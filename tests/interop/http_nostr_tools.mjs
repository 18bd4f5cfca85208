// Calls over HTTP, each signed by nostr-tools' nip98 alone. It knows nothing of Tradepost.
//
//   node http_nostr_tools.mjs '[{"url": "http://…", "method": "post", "body": {…}, "signed_url": …, "signed_body": …}, …]'
//
// What is signed is what is sent, unless `signed_url` or `signed_body` say otherwise. It prints a JSON line for each call:
// status, answer, authorization, public_key.

import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { getToken } from 'nostr-tools/nip98'

const secretKey = generateSecretKey()

for (const call of JSON.parse(process.argv[2])) {
  const { url, method, body, signed_url = url, signed_body = body } = call
  const authorization = await getToken(signed_url, method, event => finalizeEvent(event, secretKey), true, signed_body)
  const answer = await fetch(url, {
    method: method.toUpperCase(),
    headers: { authorization },
    body: body && JSON.stringify(body),
  })
  const told = { status: answer.status, answer: await answer.json(), authorization, public_key: getPublicKey(secretKey) }
  process.stdout.write(JSON.stringify(told) + '\n')
}
