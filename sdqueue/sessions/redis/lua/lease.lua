-- Take the lock, load the record and count a beginning. Answers {token, beginnings, turns in the backlog, refusal,
-- record}, or the name of the holder.
local dead, known, turn, ttl = argument(), argument(), argument(), argument()
local fence, holder = acquire(dead)
if not fence then return holder end
if turn == '' then return {fence, 0, 0, '', load(known)} end
local waiting, refusal = standing(turn)
return {fence, begin(turn, ttl), waiting, refusal, load(known)}
