-- Take the lock, load the record and count a beginning. Answers {token, beginnings, record}, or the name of the holder.
local dead, known, turn, ttl = argument(), argument(), argument(), argument()
local fence, holder = acquire(dead)
if not fence then return holder end
return {fence, turn ~= '' and begin(turn, ttl) or 0, load(known)}
