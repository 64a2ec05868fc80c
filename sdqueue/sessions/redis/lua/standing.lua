local waiting, refusal = standing(argument())
return {waiting, refusal}
