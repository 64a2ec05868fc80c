-- Take the lock. Answers {token}, or the name of the holder.
local fence, holder = acquire(argument())
if fence then return {fence} end
return holder
