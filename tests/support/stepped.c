/* Ordinary loops, for the compiler to turn into vector code. One thread, nothing is printed. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define COUNT 96
#define OWN __attribute__((noinline, noclone))

static double a[COUNT], b[COUNT], c[COUNT];
static float f[COUNT], g[COUNT];
static int32_t n[COUNT], m[COUNT];
static uint8_t s[COUNT], t[COUNT];

OWN static void axpy(double *restrict y, const double *restrict x, double by)
{
    for (int i = 0; i < COUNT; i++)
        y[i] += by * x[i];
}

OWN static double dot(const double *x, const double *y)
{
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += x[i] * y[i];
    return sum;
}

OWN static void clamp(float *restrict y, const float *restrict x)
{
    for (int i = 0; i < COUNT; i++)
        y[i] = x[i] > 1.5f ? 1.5f : x[i] < 0 ? 0 : x[i];
}

OWN static int32_t chosen(const int32_t *x, const int32_t *y)
{
    int32_t sum = 0;
    for (int i = 0; i < COUNT; i++)
        if (x[i] > y[i])
            sum += x[i] * 3 - y[i];
    return sum;
}

OWN static void mix(uint8_t *restrict y, const uint8_t *restrict x)
{
    for (int i = 0; i < COUNT; i++)
        y[i] = (uint8_t)((x[i] ^ 0x5a) + (x[i] >> 3));
}

OWN static double series(double x)
{
    double term = 1, sum = 1;
    for (int i = 1; i < 12; i++) {
        term *= x / i;
        sum += term;
    }
    return sqrt(sum) + (double)(float)term;
}

OWN static void widen(double *restrict y, const int32_t *restrict x)
{
    for (int i = 0; i < COUNT; i++)
        y[i] = x[i] * 0.25;
}

OWN static void clear(float *y, int32_t *x)
{
    for (int i = 0; i < COUNT; i++) {
        y[i] = 0;
        x[i] = -1;
    }
}

OWN static uint64_t hash(const uint8_t *x)
{
    uint64_t h = 1469598103934665603u;
    for (int i = 0; i < COUNT; i++)
        h = (h ^ x[i]) * 1099511628211u;
    return h;
}

/* Where stepping begins. */
OWN double work(int round)
{
    double sum = 0;
    axpy(a, b, 0.5 + round);
    sum += dot(a, c);
    clamp(f, g);
    sum += chosen(n, m);
    mix(s, t);
    sum += series(1.25 + round);
    widen(c, n);
    sum += (double)(hash(s) & 0xff);
    clear(g, m);
    for (int i = 0; i < COUNT; i++) {
        g[i] = (float)(i % 7) - 2 + (float)a[i];
        m[i] = i * 5 % 11;
    }
    return sum;
}

int main(void)
{
    double sum = 0;
    for (int i = 0; i < COUNT; i++) {
        a[i] = i, b[i] = 1.0 / (i + 1), c[i] = i * 0.5;
        f[i] = (float)i, g[i] = (float)(i % 5) - 1;
        n[i] = i * 7 % 13, m[i] = i % 6;
        s[i] = (uint8_t)i, t[i] = (uint8_t)(i * 31);
    }
    for (int round = 0; round < 1000; round++)
        sum += work(round);
    return sum == 0.125;
}
