// A wallet made of cashu-ts alone, as other people's wallets are. It knows NUT-18 and nothing of Tradepost.
//
//   node wallet_cashu_ts.mjs '{"do": "pay", "mint": "http://…", "request": "creqA…"}'
//
// do: "pay" a request with coins minted for it, locked as it asks, and print the payload (NUT-18) and what a reader of
// the request sees; "sign" `proofs` with `keys` and print their witnesses; "take" `proofs` with `keys` and print how
// many sats came. One JSON object on stdout; an error is a stack on stderr and code 1.

import { Amount, PaymentRequest, signP2PKProofs } from '@cashu/cashu-ts'
import { openWallet, payRequest, plain } from './cashu_wallet.mjs'

const wish = { keys: [], ...JSON.parse(process.argv[2]) }
const wallet = await openWallet(wish.mint)

async function pay() {
  const request = PaymentRequest.fromEncodedRequest(wish.request)
  return { payload: await payRequest(wallet, wish.mint, request), creqb: request.toEncodedCreqB() }
}

async function take() {
  const proofs = await wallet.ops.receive(proofsIn()).privkey(wish.keys).run()
  return { sat: proofs.reduce((sum, proof) => sum + Amount.from(proof.amount).toNumber(), 0) }
}

function proofsIn() {
  return wish.proofs.map((proof) => ({ ...proof, amount: Amount.from(proof.amount) }))
}

const doings = { pay, take, sign: () => ({ proofs: signP2PKProofs(proofsIn(), wish.keys).map(plain) }) }
process.stdout.write(JSON.stringify(await doings[wish.do]()))
