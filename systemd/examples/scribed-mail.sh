#!/bin/sh
# Mails each new transcript, once its json document is there too, which is published last. scribed-mail.service runs it.
#
# MAIL_TO          the address
# SENDMAIL         a command that reads a message with its headers from standard input
# OUTBOX           where the transcripts are
# STATE_DIRECTORY  where it remembers what it has sent; systemd sets it
set -eu
: "${MAIL_TO:?}" "${SENDMAIL:?}" "${OUTBOX:?}" "${STATE_DIRECTORY:?}"
SENT=$STATE_DIRECTORY/sent
IS_FIRST=no
if [ ! -e "$SENT" ]; then
    IS_FIRST=yes # what was delivered before this was set up is not sent
    : >"$SENT"
fi
export MAIL_TO SENDMAIL SENT IS_FIRST

# A name may hold anything, so it is passed as an argument and written into the message in base64. Links are not followed.
find "$OUTBOX" -type f -name '*.txt' ! -name STATUS.txt -exec sh -euc '
    n_failed=0
    for text; do
        [ -f "${text%.txt}.json" ] || continue
        key="$(printf %s "$text" | sha256sum | cut -c1-64) $(stat -c "%i %Y" -- "$text")"
        grep -Fqx -- "$key" "$SENT" && continue
        if [ "$IS_FIRST" = no ]; then
            subject=$(printf %s "${text##*/}" | base64 -w 0)
            {
                printf "To: %s\nSubject: =?UTF-8?B?%s?=\nMIME-Version: 1.0\n" "$MAIL_TO" "$subject"
                printf "Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: base64\n\n"
                base64 -- "$text"
            } | $SENDMAIL || { n_failed=1; continue; } # the next run tries again
        fi
        printf "%s\n" "$key" >>"$SENT"
    done
    exit $n_failed
' sh {} +
