// Verifies a token of an instance: node verify.mjs ISSUER AUDIENCE < TOKEN. Prints its claims, or says why not and ends
// with 1. jose finds the keys by `kid` and keeps them; NODE_EXTRA_CA_CERTS names a private CA.
import { readFileSync } from 'node:fs'
import { createRemoteJWKSet, jwtVerify } from 'jose'

const [issuer, audience] = process.argv.slice(2)
const answer = await fetch(issuer.replace(/\/$/, '') + '/.well-known/openid-configuration')
const discovery = await answer.json()
if (discovery.issuer !== issuer) throw new Error('the discovery document is of another issuer')
try {
  const { payload } = await jwtVerify(readFileSync(0, 'utf8').trim(), createRemoteJWKSet(new URL(discovery.jwks_uri)), {
    issuer,
    audience,
    algorithms: ['RS256', 'ES256', 'ES384'],
    clockTolerance: 10, // for clocks that do not agree
    requiredClaims: ['exp', 'iat', 'sub'],
  })
  console.log(JSON.stringify(payload))
} catch (refused) {
  console.error(`${refused.code}: ${refused.message}`)
  process.exit(1)
}
